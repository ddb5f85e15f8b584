"""scipy's two-sample tests beside ours on the same columns, in one run: seconds from raw columns to the p-value.

    python -m venv V && V/bin/pip install numpy==2.4.6 scipy==1.17.1
    cargo build --release -p mlops-benches --example two_sample_cost
    V/bin/python benches/peers/two_sample.py target/release/examples/two_sample_cost DIR [ROWS]

DIR gets the columns (32 MB for the 1,000,000 rows of each side) and is left. Each figure is the median of seven runs (scipy:
three) and the least; prints one JSON object a line, the last ones are ratios of medians, scipy's seconds over ours.
"""

import json
import math
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
from scipy import stats

binary, work = sys.argv[1], pathlib.Path(sys.argv[2])
rows = sys.argv[3] if len(sys.argv) > 3 else "1000000"
ours = [json.loads(line) for line in subprocess.run([binary, work, rows], check=True, capture_output=True, text=True).stdout.splitlines()]
for line in ours:
    print(json.dumps(line))

peers = {
    "sort one side": lambda a, b: np.sort(a)[0],
    "ks": lambda a, b: stats.ks_2samp(a, b, method="asymp").statistic,
    "cramer_von_mises": lambda a, b: stats.cramervonmises_2samp(a, b, method="asymptotic").statistic,
    "mann_whitney": lambda a, b: stats.mannwhitneyu(a, b, method="asymptotic").statistic,
    "wasserstein": lambda a, b: stats.wasserstein_distance(a, b),
    "energy": lambda a, b: stats.energy_distance(a, b),
}
ratios, total = [], {}
for data, suffix in [("normal", "normal"), ("three decimals", "tied")]:
    a, b = [np.fromfile(work / f"{name}_{suffix}.f64") for name in "ab"]
    for what, run in peers.items():
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            value = float(run(a, b))
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        print(json.dumps({"data": data, "what": f"scipy {what}", "seconds": median, "least": min(seconds), "value": value}))
        mine = next(line for line in ours if line["data"] == data and line["what"] == what)
        # Ours takes ties apart in equal steps, where scipy gives each its mean rank; without ties they are the same.
        near = 1e-2 if what == "cramer_von_mises" and suffix == "tied" else 1e-6
        assert math.isclose(value, mine["value"], rel_tol=near), (what, value, mine["value"])
        ratios.append({"ratio": what, "data": data, "median": median / mine["seconds"], "least": min(seconds) / mine["least"]})
        if what != "sort one side":
            total[data] = total.get(data, 0) + median
    mine = next(line for line in ours if line["data"] == data and line["what"] == "all")
    ratios.append({"ratio": "all five of scipy over six in one pass", "data": data, "median": total[data] / mine["seconds"]})
for line in ratios:
    print(json.dumps(line))
