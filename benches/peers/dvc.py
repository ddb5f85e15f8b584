"""`dvc add` beside a commit of the same files, in one run: time and bytes kept.

    python -m venv V && V/bin/pip install "dvc==3.67.1"
    cargo build --release -p mlops-benches --example dataset_cost
    V/bin/python benches/peers/dvc.py target/release/examples/dataset_cost DIR [MiB]

DIR is made, filled with about ten times so many MiB, and left. Prints one JSON object a line; the last ones are ratios,
DVC's seconds and bytes over ours.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

binary, work = sys.argv[1], pathlib.Path(sys.argv[2])
mib = sys.argv[3] if len(sys.argv) > 3 else "1024"
ours = [json.loads(line) for line in subprocess.run([binary, work, mib], check=True, capture_output=True, text=True).stdout.splitlines()]
for line in ours:
    print(json.dumps(line))

repo = work / "dvc"
repo.mkdir()
environment = os.environ | {"DVC_NO_ANALYTICS": "true"}
dvc = pathlib.Path(sys.executable).parent / "dvc"


def run(*command):
    subprocess.run([dvc, *command], cwd=repo, env=environment, check=True, capture_output=True)


def kept():
    return sum(path.stat().st_size for path in (repo / ".dvc" / "cache").rglob("*") if path.is_file())


run("init", "--no-scm", "--quiet")
run("version")  # imports are in the page cache from here on
names = ["first", "1 % appended", "1 % inserted at one place", "1 % inserted at 100 places"]
before = 0
for i, name in enumerate(names):
    shutil.copyfile(work / f"{i}.csv", repo / "data.csv")
    start = time.perf_counter()
    run("add", "data.csv", "--quiet")
    seconds = time.perf_counter() - start
    os.sync()
    new, before = kept() - before, kept()
    size = (work / f"{i}.csv").stat().st_size
    print(json.dumps({"what": f"dvc add: {name}", "seconds": seconds, "MiB/s": size / 2**20 / seconds, "new_share": new / (work / "0.csv").stat().st_size}))
    mine = next(line for line in ours if line["what"] == f"CSV, commit: {name}")
    print(json.dumps({"ratio": name, "time": seconds / mine["seconds"], "bytes": new / (work / "0.csv").stat().st_size / max(mine["new_share"], 1e-9)}))
