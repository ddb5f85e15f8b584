"""Reads what `lifecycle` wrote with Python's own libraries, and checks it against independent computations.

    python read_back.py DIR

- every artifact has the BLAKE3 digest it is stored under
- each package's MLmodel is YAML with an MLflow signature, its weights are safetensors
- every logged answer equals the network computed anew in numpy from the package that answered
- the accuracy in summary.json is that of the logged answers against the labels
- the dataset version in the provenance is there as Parquet, with the rows it says
"""

import json
import pathlib
import sqlite3
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from blake3 import blake3
from safetensors.numpy import load

out = pathlib.Path(sys.argv[1])
store = out / "store"
summary = json.loads((out / "summary.json").read_text())


def artifact(digest):
    path = store / "artifacts" / digest[:2] / digest
    if path.exists():
        data = path.read_bytes()
    else:
        # Larger than one chunk: a list of digests and lengths, each chunk an artifact.
        entries = (store / "chunks" / digest[:2] / digest).read_bytes().removeprefix(b"mlops chunks 1\n")
        data = b"".join(artifact(entries[i : i + 32].hex()) for i in range(0, len(entries), 36))
    assert blake3(data).hexdigest() == digest, f"artifact {digest} does not have its digest"
    return data


class Model:
    def __init__(self, package):
        listed = json.loads(artifact(package))["files"]
        files = {entry["path"]: artifact(entry["digest"]) for entry in listed}
        self.mlmodel = yaml.safe_load(files["MLmodel"])
        flavor = self.mlmodel["flavors"]["candle"]
        self.weights = load(files[flavor["weights"]])
        self.layers = len(flavor["config"]["hidden"]) + 1
        self.inputs = [column["name"] for column in json.loads(self.mlmodel["signature"]["inputs"])]
        self.outputs = [column["name"] for column in json.loads(self.mlmodel["signature"]["outputs"])]
        self.provenance = json.loads(files["provenance.json"])

    def __call__(self, x):
        h = ((x - self.weights["input.mean"]) / self.weights["input.scale"]).astype(np.float32)
        for k in range(self.layers):
            h = h @ self.weights[f"layers.{k}.weight"].T + self.weights[f"layers.{k}.bias"]
            if k + 1 < self.layers:
                h = np.maximum(h, 0)
        return 1 / (1 + np.exp(-h.astype(np.float64)))


stored = 0
for path in (store / "artifacts").glob("*/*"):
    assert blake3(path.read_bytes()).hexdigest() == path.name, path
    stored += 1

versions = {a["version"]: Model(a["package"]) for a in summary["attempts"] if a["version"] is not None}
answers = {}
compared = 0
for path in sorted((store / "inference" / "prices").glob("*.parquet")):
    log = pq.ParquetFile(path).read()
    version, arm = log["version"].to_pylist(), log["arm"].to_pylist()
    at, ids = log["at"].to_pylist(), log["prediction_id"].to_pylist()
    inputs = pa.Table.from_struct_array(log["inputs"].combine_chunks())
    said = pa.Table.from_struct_array(log["outputs"].combine_chunks()).column(0).to_numpy()
    for number in set(version):
        model = versions[number]
        rows = np.array([v == number for v in version])
        x = np.column_stack([inputs[name].to_numpy() for name in model.inputs])[rows]
        # Sums of at most 32 products in f32: they differ in order, by a few units in the last place.
        np.testing.assert_allclose(said[rows], model(x)[:, 0], rtol=0, atol=2e-5)
        compared += int(rows.sum())
    for i in range(len(ids)):
        if arm[i] != "shadow":
            assert ids[i] not in answers, "every prediction is answered once"
            answers[ids[i]] = (at[i], said[i])

total = summary["scores"]["total"][0]
assert len(answers) == total["n"], (len(answers), total)
labels = {}
for path in (store / "datasets" / "elec2").iterdir():
    manifest = json.loads(path.read_text())
    table = pa.concat_tables(pq.read_table(pa.BufferReader(artifact(f["digest"]))) for f in manifest["files"])
    assert table.num_rows == manifest["rows"], path
    labels |= dict(zip(table["at"].to_pylist(), table["up"].to_pylist()))
known = [(p, labels[at]) for at, p in answers.values() if at in labels]
accuracy = np.mean([(p >= 0.5) == (label == 1) for p, label in known])
assert abs(accuracy - total["correct"] / total["n"]) < 0.02, "the labels at hand are most of them"

answered = next(o for o in summary["origins"] if o.startswith("model elec2/"))
trained_on = versions[int(answered.split("/")[1])].provenance["datasets"][0]
assert any(trained_on["digest"] in origin for origin in summary["origins"])
assert (store / "datasets" / trained_on["name"] / trained_on["digest"]).exists()

with sqlite3.connect(f"file:{out / 'registry.db'}?mode=ro", uri=True) as db:
    entries = db.execute("SELECT count(*) FROM audit_log").fetchone()[0]
    assert entries == summary["checked"]["audit_entries"]
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"

print(f"{stored} artifacts verified, {len(versions)} packages read, {compared} predictions computed anew,")
print(f"accuracy {accuracy:.4f} on {len(known)} answers whose labels were ingested, {entries} audit entries")
