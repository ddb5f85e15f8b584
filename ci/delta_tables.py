"""Reads Delta tables that `mlops-core` wrote with Python's `deltalake`, and writes such for it.

    python delta_tables.py DIR

DIR has our tables and `ours.json`: every version with its rows. They must be what Python reads, by number. Then Python
adds versions to one of our tables, vacuums, and makes tables of its own; `python.json` tells their rows.
"""

import datetime
import json
import pathlib
import sys

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

out = pathlib.Path(sys.argv[1])
told = []


def value(v):
    if isinstance(v, datetime.datetime):
        v = v.astimezone(datetime.UTC)
        text = v.strftime("%Y-%m-%dT%H:%M:%S")
        return text + (f".{v.microsecond // 1000:03d}" if v.microsecond else "") + "Z"
    return v.isoformat() if isinstance(v, datetime.date) else v


def rows(name, version):
    table = pa.table(DeltaTable(out / name, version=version).to_pyarrow_table())
    return [{k: value(v) for k, v in row.items() if v is not None} for row in table.to_pylist()]


def same(name, version, expected):
    key = lambda row: json.dumps(row, sort_keys=True)
    found = rows(name, version)
    assert sorted(found, key=key) == sorted(expected, key=key), (name, version, found, expected)


def tell(name, version=None):
    version = DeltaTable(out / name).version() if version is None else version
    told.append({"table": name, "version": version, "rows": rows(name, version)})


# Ours, read by Python.
ours = json.loads((out / "ours.json").read_text())
for one in ours:
    same(one["table"], one["version"], one["rows"])
history = {entry["version"]: entry for entry in DeltaTable(out / "typed").history()}
first = next(one for one in ours if one["table"] == "typed" and one["version"] == 0)
assert history[0]["userName"] == first["author"] == "ana", history[0]
assert history[0]["mlops"]["digest"] == first["digest"], history[0]
# Files are passed over by our statistics and partitions.
last = max(one["version"] for one in ours if one["table"] == "d")
expected = [row for one in ours if (one["table"], one["version"]) == ("d", last) for row in one["rows"]]
picked = DeltaTable(out / "d").to_pyarrow_table(filters=[("day", "=", "day 1"), ("id", ">", 500)])
assert picked.num_rows == sum(row["day"] == "day 1" and row["id"] > 500 for row in expected) > 0
# A VACUUM with the table's own retention takes nothing that a version needs.
for name in ("d", "typed"):
    DeltaTable(out / name).vacuum(dry_run=False)
for one in ours:
    same(one["table"], one["version"], one["rows"])

# Python's versions in our table.
write_deltalake(out / "d", pa.table({"id": [9000], "maybe": pa.array([None], pa.int64()), "day": ["day 9"]}), mode="append")
tell("d")
DeltaTable(out / "d").delete("id < 10")
tell("d")
DeltaTable(out / "d").optimize.compact()
DeltaTable(out / "d").create_checkpoint()
tell("d")

# Python's own tables.
moment = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)
data = pa.table({
    "id": pa.array([1, 2, 3], pa.int32()),
    "x": [0.5, None, -1.0],
    "text": ["a", "b", None],
    "at": pa.array([moment, None, moment + datetime.timedelta(days=1)], pa.timestamp("us", "UTC")),
    "day": pa.array([moment.date(), moment.date(), None], pa.date32()),
    "list": [[1, 2], None, []],
    "place": ["x y/z", "b", None],
})
write_deltalake(out / "python", data, partition_by=["place", "day"])
tell("python")
write_deltalake(out / "python", data.set_column(0, "id", pa.array([4, 5, 6], pa.int32())), mode="append")
tell("python")
wider = pa.table({"id": pa.array([7], pa.int32()), "place": ["b"], "new": ["only here"]})
write_deltalake(out / "python", wider, mode="append", schema_mode="merge")
tell("python")
DeltaTable(out / "python").delete("id = 2")
tell("python")
DeltaTable(out / "python").create_checkpoint()
write_deltalake(out / "python", data, mode="append", schema_mode="merge")
tell("python")
for version in range(4):
    told.append({"table": "python", "version": version, "rows": rows("python", version)})

write_deltalake(out / "vacuumed", pa.table({"id": [1]}))
write_deltalake(out / "vacuumed", pa.table({"id": [2]}), mode="overwrite")
(gone,) = DeltaTable(out / "vacuumed").vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
told.append({"table": "vacuumed", "version": 0, "gone": pathlib.Path(gone).name})
tell("vacuumed", 1)

(out / "python.json").write_text(json.dumps(told))
print(f"{len(ours)} versions of ours read by Python, {len(told)} of Python's written")
