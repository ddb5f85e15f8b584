"""Profile and drift (PSI, KS, JS) of 50 numeric and 10 categorical columns: ours, scipy alone and Evidently, in one run.

    python -m venv V && V/bin/pip install "evidently==0.7.23" "pandas<3" pyarrow
    cargo build --release -p mlops-benches --example profile_drift
    V/bin/python benches/peers/drift.py target/release/examples/profile_drift DIR [ROWS]

DIR is made and gets two Arrow IPC files of ROWS (default 1,000,000) rows each. Every side runs in a process of its own, reads
the same files, and tells its seconds without reading them and its peak of resident bytes with them. Ours profiles batch by
batch and so never holds the rows. Prints one JSON object a line; the last ones are ratios, theirs over ours.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time


def tell(what, seconds, **more):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"what": what, "seconds": seconds, "peak": peak, **more}), flush=True)


def frames(work):
    import pyarrow as pa

    return [pa.ipc.open_file(pa.memory_map(str(work / f"{side}.arrow"))).read_all().to_pandas() for side in ("reference", "live")]


def make(work, rows):
    import numpy as np
    import pyarrow as pa

    rng = np.random.default_rng(1)
    for side, shift in (("reference", 0.0), ("live", 0.1)):
        columns = {}
        for i in range(50):
            x = rng.standard_normal(rows)
            columns[f"n{i}"] = (np.exp(x) if i % 3 == 1 else np.round(x, 1) if i % 3 == 2 else x) + shift * (i % 5 == 0)
        for i in range(10):
            names = np.array([f"category {k}" for k in range(5 + 10 * i)])
            drawn = np.minimum(rng.geometric(0.2 - shift * (i % 5 == 0), rows) - 1, len(names) - 1)
            columns[f"c{i}"] = pa.array(names[drawn])
        table = pa.table(columns)
        with pa.ipc.new_file(str(work / f"{side}.arrow"), table.schema) as out:
            out.write_table(table, max_chunksize=65_536)


def with_scipy(work):
    import numpy as np
    from scipy import stats
    from scipy.spatial.distance import jensenshannon

    reference, live = frames(work)
    start = time.perf_counter()
    reference.describe(include="all"), live.describe(include="all")
    out = []
    for name in reference:
        a, b = reference[name].to_numpy(), live[name].to_numpy()
        if name.startswith("n"):
            edges = np.unique(np.quantile(a, np.linspace(0, 1, 11)[1:-1]))
            p, q = (np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (a, b))
            ks = stats.ks_2samp(a, b).statistic
        else:
            keys = reference[name].unique()
            p, q = (frame[name].value_counts().reindex(keys, fill_value=0).to_numpy() for frame in (reference, live))
            ks = stats.chi2_contingency(np.array([p, q])).statistic
        js = jensenshannon(p, q) ** 2
        p, q = ((x + 0.5) / (x.sum() + 0.5 * len(x)) for x in (p, q))
        out.append((float(np.sum((p - q) * np.log(p / q))), float(ks), float(js)))
    tell("scipy", time.perf_counter() - start, first_column=out[0])


def with_evidently(work):
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    reference, live = frames(work)
    definition = DataDefinition(
        numerical_columns=[name for name in reference if name.startswith("n")],
        categorical_columns=[name for name in reference if name.startswith("c")],
    )
    start = time.perf_counter()
    sides = [Dataset.from_pandas(frame, data_definition=definition) for frame in (live, reference)]
    seconds = {}
    for what, metric in [
        ("profile", DataSummaryPreset()),
        ("psi", DataDriftPreset(num_method="psi", cat_method="psi")),
        ("ks", DataDriftPreset(num_method="ks", cat_method="chisquare")),
        ("js", DataDriftPreset(num_method="jensenshannon", cat_method="jensenshannon")),
    ]:
        before = time.perf_counter()
        Report([metric]).run(*sides).dict()
        seconds[what] = time.perf_counter() - before
    tell("evidently", time.perf_counter() - start, parts=seconds)


sides = {"make": make, "scipy": with_scipy, "evidently": with_evidently}
if sys.argv[1] in sides:
    sides[sys.argv[1]](pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:]))
    sys.exit()

binary, work = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
rows = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
work.mkdir(parents=True, exist_ok=True)
subprocess.run([sys.executable, __file__, "make", work, str(rows)], check=True)
files = [work / "reference.arrow", work / "live.arrow"]
ours = json.loads(subprocess.run([binary, *files], check=True, capture_output=True, text=True).stdout)
print(json.dumps(ours), flush=True)
for peer in ("scipy", "evidently"):
    theirs = json.loads(subprocess.run([sys.executable, __file__, peer, work], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    print(json.dumps(theirs))
    print(json.dumps({"ratio": peer, "time": theirs["seconds"] / ours["seconds"], "memory": theirs["peak"] / ours["peak"]}), flush=True)
