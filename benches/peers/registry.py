"""The same MLflow client against our registry server and against `mlflow server`, in one run.

    python -m venv V && V/bin/pip install "mlflow==3.17.2"
    cargo build --release --bin registry_server
    V/bin/python benches/peers/registry.py target/release/registry_server DIR [RUNS]

Both keep their data under DIR, on SQLite. RUNS (default 100,000) is how many runs there are when `search_runs` is timed;
MLflow's are written to its database directly, as its own interface would take an hour. Prints one JSON object a line;
`ratio` is ours over theirs in calls per second, or theirs over ours in seconds and bytes.
"""

import http.client
import json
import os
import pathlib
import re
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    GIT_PYTHON_REFRESH="quiet",
)
import mlflow  # noqa: E402
import requests  # noqa: E402
from mlflow.entities import Metric  # noqa: E402

binary, work = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
runs = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
work.mkdir(parents=True)
here = pathlib.Path(sys.executable).parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(url):
    for _ in range(600):
        try:
            return urllib.request.urlopen(url + "/health", timeout=1).read()
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def memory(pid):
    """Resident bytes of a process and its children."""
    total, waiting = 0, [pid]
    while waiting:
        pid = waiting.pop()
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            total += int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024
            waiting += [int(c) for c in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (OSError, TypeError):
            pass
    return total


def fill_theirs(path, experiment):
    db = sqlite3.connect(path)
    columns = [row[1] for row in db.execute("PRAGMA table_info(runs)")]
    base = dict.fromkeys(columns)
    base |= dict(source_type="LOCAL", source_name="", entry_point_name="", user_id="local", status="FINISHED", source_version="",
                 lifecycle_stage="active", experiment_id=int(experiment), artifact_uri="mlflow-artifacts:/x")
    marks = ",".join("?" * len(columns))
    metrics = [row[1] for row in db.execute("PRAGMA table_info(latest_metrics)")]
    with db:
        for i in range(runs):
            run = f"{i:032x}"
            row = base | dict(run_uuid=run, name=f"run-{i}", start_time=i, end_time=i + 1)
            db.execute(f"INSERT INTO runs ({','.join(columns)}) VALUES ({marks})", [row[c] for c in columns])
            db.execute("INSERT INTO params (key, value, run_uuid) VALUES ('lr', ?, ?)", (str(i % 10), run))
            db.execute("INSERT INTO tags (key, value, run_uuid) VALUES ('team', ?, ?)", (f"t{i % 7}", run))
            point = dict(key="acc", value=(i * 7919 % 10007) / 10007, timestamp=i, step=0, is_nan=False, run_uuid=run)
            db.execute(f"INSERT INTO latest_metrics ({','.join(metrics)}) VALUES ({','.join('?' * len(metrics))})", [point.get(c) for c in metrics])
    db.close()


def fill_ours(url, experiment):
    def some(numbers):
        session = requests.Session()
        for i in numbers:
            new = {"experiment_id": experiment, "run_name": f"run-{i}", "start_time": i, "tags": [{"key": "team", "value": f"t{i % 7}"}]}
            run = session.post(f"{url}/api/2.0/mlflow/runs/create", json=new).json()["run"]["info"]["run_id"]
            batch = {
                "run_id": run,
                "params": [{"key": "lr", "value": str(i % 10)}],
                "metrics": [{"key": "acc", "value": (i * 7919 % 10007) / 10007, "timestamp": i, "step": 0}],
            }
            assert session.post(f"{url}/api/2.0/mlflow/runs/log-batch", json=batch).ok

    threads = [threading.Thread(target=some, args=(range(k, runs, 16),)) for k in range(16)]
    [t.start() for t in threads]
    [t.join() for t in threads]


def rate(times, call):
    call(0)
    start = time.perf_counter()
    for i in range(1, times + 1):
        call(i)
    return times / (time.perf_counter() - start)


def measure(url, times):
    mlflow.set_tracking_uri(url)
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("speed")
    run = client.create_run(experiment).info.run_id
    points = [[Metric("m", float(i), i, b * 1000 + i) for i in range(1000)] for b in range(times // 5 + 1)]
    seen = {
        "log_metric/s": rate(times, lambda i: client.log_metric(run, "x", float(i), step=i)),
        "log_batch(1000)/s": rate(times // 5, lambda i: client.log_batch(run, metrics=points[i])),
    }
    client.log_text(run, "flavors: {}\nmodel_uuid: x\n", "m/MLmodel")
    client.create_registered_model("speed")
    source = client.get_run(run).info.artifact_uri + "/m"
    seen["create_model_version/s"] = rate(times, lambda i: client.create_model_version("speed", source, run, await_creation_for=0))
    client.set_registered_model_alias("speed", "champion", 1)
    # The same without MLflow's client, which takes most of the time of a call: what is left is the server's.
    host, port = url.removeprefix("http://").split(":")
    bare = http.client.HTTPConnection(host, int(port))

    def call(method, path, body=None):
        bare.request(method, f"/api/2.0/mlflow/{path}", body and json.dumps(body), {"Content-Type": "application/json"})
        answer = bare.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()

    point = dict(run_id=run, key="bare", timestamp=1)
    seen["bare log_metric/s"] = rate(times, lambda i: call("POST", "runs/log-metric", point | dict(value=i, step=i)))
    version = dict(name="speed", source=source, run_id=run)
    seen["bare create_model_version/s"] = rate(times, lambda i: call("POST", "model-versions/create", version))
    alias = "registered-models/alias?name=speed&alias=champion"
    seen["bare get_model_version_by_alias/s"] = rate(times, lambda i: call("GET", alias))
    seen["get_model_version_by_alias/s"] = rate(times, lambda i: client.get_model_version_by_alias("speed", "champion"))
    return client, seen


def searches(client, experiment, times):
    queries = [
        dict(filter_string="metrics.acc > 0.99 and params.lr = '3'", order_by=["metrics.acc DESC"], max_results=100),
        dict(filter_string="tags.team = 't3'", order_by=["attributes.start_time DESC"], max_results=100),
        dict(filter_string="", order_by=["metrics.acc ASC"], max_results=100),
    ]
    seen = []
    for query in queries:
        assert len(client.search_runs([experiment], **query)) == 100 or runs < 100_000
        for _ in range(times):
            start = time.perf_counter()
            client.search_runs([experiment], **query)
            seen.append(time.perf_counter() - start)
    seen.sort()
    return {"search_runs p50 s": statistics.median(seen), "search_runs p99 s": seen[int(len(seen) * 0.99)]}


port, other = free_port(), free_port()
ours = subprocess.Popen([binary, "--listen", f"127.0.0.1:{port}", "--data", work / "ours"], stdout=subprocess.DEVNULL)
theirs = subprocess.Popen(
    [here / "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(other),
     "--backend-store-uri", f"sqlite:///{work / 'theirs.db'}", "--artifacts-destination", work / "theirs"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    our_url, their_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}"
    wait(our_url), wait(their_url)
    def told(name, process, seen):
        seen["resident bytes"] = memory(process.pid)
        print(json.dumps({"server": name} | seen), flush=True)

    our_client, our_seen = measure(our_url, 500)
    their_client, their_seen = measure(their_url, 100)
    experiment = our_client.create_experiment("many")
    fill_ours(our_url, experiment)
    mlflow.set_tracking_uri(our_url)
    our_seen |= searches(our_client, experiment, 34)
    told("ours", ours, our_seen)
    mlflow.set_tracking_uri(their_url)
    experiment = their_client.create_experiment("many")
    fill_theirs(work / "theirs.db", experiment)
    # A third of the rounds: one takes seconds there.
    their_seen |= searches(their_client, experiment, 12)
    told("mlflow", theirs, their_seen)
    for what, our in our_seen.items():
        their = their_seen[what]
        print(json.dumps({"what": what, "ours": our, "mlflow": their, "ratio": our / their if what.endswith("/s") else their / our}))
finally:
    for process in (ours, theirs):
        process.terminate()
        process.wait()
