"""Makes elec2.parquet from elec2.csv.gz (see PROVENANCE.md): names the columns and gives each row its time.

    python elec2.py elec2.csv.gz elec2.parquet        needs pandas and pyarrow
"""

import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ["period", "nsw_price", "nsw_demand", "vic_price", "vic_demand", "transfer", "up"]

frame = pd.read_csv(sys.argv[1])
frame.columns = NAMES
assert len(frame) == 944 * 48 and (frame.groupby("period").size() == 944).all()
frame["up"] = frame["up"].astype("int64")
start = pd.Timestamp("1996-05-07T00:00:00Z")
frame.insert(0, "at", start + pd.to_timedelta(range(0, 30 * len(frame), 30), unit="min"))
columns = [pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False)]
columns += [pa.field(name, pa.float64(), nullable=False) for name in NAMES[:-1]] + [pa.field("up", pa.int64(), nullable=False)]
table = pa.Table.from_pandas(frame, schema=pa.schema(columns), preserve_index=False).replace_schema_metadata(None)
pq.write_table(table, sys.argv[2], compression="zstd", compression_level=19, use_dictionary=True)
