"""What the Python `mlflow` client sees of a server, as facts without ids and times.

    python ci/mlflow_client.py run URI FACTS.json     run every case against a server, write what was seen
    python ci/mlflow_client.py diff OURS.json THEIRS.json     compare; exit 1 where they differ and `ALLOWED` has no reason

Each case is a function that gets a client and a prefix for its names, and returns facts. Two servers that speak one
contract give equal facts.
"""

import json
import math
import os
import pathlib
import sys
import tempfile
import warnings

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    GIT_PYTHON_REFRESH="quiet",
)
warnings.filterwarnings("ignore")

# Where we differ on purpose: case -> path of the fact -> why.
ALLOWED = {
    "artifacts": {
        "folder": "an empty file has a size, 0",
    },
    "metrics": {
        "infinite": "+inf is kept as it is; MLflow's SQL store gives 1.797e308",
    },
    "models": {
        "found_by": "a status is READY in a filter as elsewhere; MLflow finds nothing by it",
    },
    "registry": {
        "bad_stage": "a mistake of the caller is a 400; MLflow answers 500, which its client repeats",
        "copied": "each version has an address of its own, and reading it is asked of its own model",
    },
    "runs": {
        "limits": "a key is no path here, so `../up` is one like any other",
    },
    "search": {
        "filter AND": "a filter that is a lone AND is refused; MLflow takes it for no filter",
        "filter params.lr = 'a' params.kind = 'b'": "clauses are joined by AND; MLflow drops the second in silence",
        "filter attributes.user_id = 'ana'": "the user is who was authenticated, whatever a tag says",
    },
}


def refused(call, *args, **kwargs):
    """The error code that a call ends with, or "accepted"."""
    from mlflow.exceptions import MlflowException

    try:
        call(*args, **kwargs)
    except MlflowException as error:
        return error.error_code
    return "accepted"


def experiments(client, name):
    from mlflow.entities import ViewType

    a = client.create_experiment(f"{name}-a", tags={"team": "x", "empty": ""})
    b = client.create_experiment(f"{name}-b")
    facts = {
        "get": (client.get_experiment(a).name, client.get_experiment(a).tags, client.get_experiment(a).lifecycle_stage),
        "by_name": client.get_experiment_by_name(f"{name}-b").experiment_id == b,
        "missing": client.get_experiment_by_name(f"{name}-none") is None,
        "twice": refused(client.create_experiment, f"{name}-a"),
        "unknown": refused(client.get_experiment, "999999"),
    }
    client.set_experiment_tag(a, "team", "y")
    client.set_experiment_tag(a, "more", "é\n")
    client.delete_experiment_tag(a, "empty")
    client.rename_experiment(b, f"{name}-c")
    facts["edited"] = (client.get_experiment(a).tags, client.get_experiment(b).name)
    client.delete_experiment(b)
    facts["deleted"] = client.get_experiment(b).lifecycle_stage
    facts["deleted_is_taken"] = refused(client.create_experiment, f"{name}-c")
    like = f"name LIKE '{name}-%'"
    names = lambda **k: [e.name.removeprefix(name) for e in client.search_experiments(filter_string=like, order_by=["name DESC"], **k)]
    facts["search"] = (names(), names(view_type=ViewType.DELETED_ONLY), names(view_type=ViewType.ALL))
    facts["by_tag"] = [e.name.removeprefix(name) for e in client.search_experiments(filter_string="tags.team = 'y' AND " + like)]
    client.restore_experiment(b)
    facts["restored"] = names()
    page = client.search_experiments(filter_string=like, order_by=["name ASC"], max_results=1)
    rest = client.search_experiments(filter_string=like, order_by=["name ASC"], max_results=1, page_token=page.token)
    facts["pages"] = ([e.name.removeprefix(name) for e in page + rest], bool(page.token), bool(rest.token))
    return facts


def runs(client, name):
    import mlflow

    mlflow.set_experiment(name)
    with mlflow.start_run(run_name="outer", description="what it is for", tags={"k": "v"}) as outer:
        mlflow.log_param("lr", 0.1)
        mlflow.log_params({"layers": 3, "text": "é' \"q\"", "long": "x" * 6000})
        again = refused(mlflow.log_param, "lr", 0.1)
        changed = refused(mlflow.log_param, "lr", 0.2)
        with mlflow.start_run(run_name="inner", nested=True) as inner:
            mlflow.log_metric("loss", 0.5)
        mlflow.set_tag("k", "w")
        mlflow.set_tags({"gone": "1", "kept": "2"})
        mlflow.delete_tag("gone")
    with mlflow.start_run(run_id=outer.info.run_id):
        mlflow.log_metric("resumed", 1)
        active = client.get_run(outer.info.run_id).info.status
    run = client.get_run(outer.info.run_id)
    plain = lambda tags: {k: v for k, v in sorted(tags.items()) if not k.startswith("mlflow.") or k in ("mlflow.runName", "mlflow.note.content")}
    facts = {
        "params": run.data.params,
        "tags": plain(run.data.tags),
        "name": (run.info.run_name, run.info.status, run.info.lifecycle_stage, active),
        "ended": run.info.end_time >= run.info.start_time,
        "parent": client.get_run(inner.info.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id,
        "write_once": (again, changed),
        "child": [r.info.run_name for r in client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{outer.info.run_id}'")],
        "user": bool(run.info.user_id),
    }
    client.update_run(inner.info.run_id, status="FAILED", name="renamed")
    info = client.get_run(inner.info.run_id)
    facts["updated"] = (info.info.status, info.info.run_name, info.data.tags["mlflow.runName"])
    client.delete_run(inner.info.run_id)
    facts["deleted"] = (client.get_run(inner.info.run_id).info.lifecycle_stage, refused(client.log_metric, inner.info.run_id, "x", 1.0))
    client.restore_run(inner.info.run_id)
    facts["restored"] = client.get_run(inner.info.run_id).info.lifecycle_stage
    client.set_terminated(inner.info.run_id, "KILLED")
    facts["terminated"] = client.get_run(inner.info.run_id).info.status
    facts["unknown"] = (
        refused(client.get_run, "0" * 32),
        refused(client.create_run, "999999"),
        refused(client.delete_tag, outer.info.run_id, "never"),
    )
    facts["limits"] = (
        refused(client.log_param, outer.info.run_id, "k" * 251, "v"),
        refused(client.log_param, outer.info.run_id, "too long", "v" * 6001),
        refused(client.set_tag, outer.info.run_id, "t", "v" * 8001),
        refused(client.log_param, outer.info.run_id, "../up", "v"),
        refused(client.log_param, outer.info.run_id, "", "v"),
    )
    return facts


def metrics(client, name):
    from mlflow.entities import Metric, Param, RunTag

    run = client.create_run(client.create_experiment(name)).info.run_id
    for step, value in ((1, 1.0), (3, 0.25), (2, 0.5), (-1, 9.0)):
        client.log_metric(run, "loss", value, timestamp=1000 + step, step=step)
    client.log_metric(run, "loss", 0.25, timestamp=1003, step=3)
    client.log_metric(run, "nan", math.nan, timestamp=1, step=0)
    client.log_metric(run, "infinite", math.inf, timestamp=1, step=0)
    client.log_metric(run, "negative", -math.inf, timestamp=1, step=0)
    client.log_metric(run, "a/b c.d-e_f:g", 1e-300, timestamp=1, step=0)
    points = [Metric("many", float(i % 7), 10_000 + i, i) for i in range(1000)]
    client.log_batch(run, metrics=points, params=[Param("p", "1")], tags=[RunTag("t", "2")])
    client.log_batch(run)
    data = client.get_run(run).data
    history = lambda key: [(m.value, m.timestamp, m.step) for m in client.get_metric_history(run, key)]
    return {
        "latest": {k: v for k, v in data.metrics.items() if k not in ("nan", "infinite", "negative")},
        "nan": math.isnan(data.metrics["nan"]),
        "infinite": math.isinf(data.metrics["infinite"]),
        "above": data.metrics["infinite"] > 1e308 and data.metrics["negative"] < -1e308,
        "history": sorted(history("loss")),
        "many": (len(history("many")), sorted(history("many"), key=lambda p: p[2])[-1]),
        "none": history("never"),
        "batch": (data.params, data.tags.get("t")),
        "refused": (
            refused(client.log_batch, run, metrics=[Metric("x", 1.0, 1, 0)] * 1001),
            refused(client.log_batch, run, params=[Param("p", "2")]),
            refused(client.log_batch, run, params=[Param("q", "1"), Param("q", "2")]),
        ),
        "nothing_left": "q" in client.get_run(run).data.params,
    }


SEARCHES = [
    "",
    "metrics.acc > 0.5",
    "metrics.acc >= 0.5",
    "metrics.acc < 0.5",
    "metrics.acc <= 0.5",
    "metrics.acc = 0.5",
    "metrics.acc != 0.5",
    "metric.acc > -1e3 and metrics.`other one` = 2",
    "params.lr = '0.1'",
    "params.lr != '0.1'",
    "param.lr LIKE '0%'",
    "parameters.lr ILIKE '0.%'",
    "params.kind LIKE 'Tr%'",
    "params.kind LIKE 'tr%'",
    "params.kind ILIKE 'tr%'",
    "params.kind LIKE '_ree'",
    "params.kind IS NULL",
    "params.kind IS NOT NULL",
    "tags.team = 'x'",
    "tags.\"team\" != 'x'",
    "tags.`with space` = \"q\"",
    "tag.team IS NULL",
    "attributes.status = 'FINISHED'",
    "status != 'FINISHED'",
    "attribute.run_name LIKE 'run-%'",
    "attr.run_name ILIKE 'RUN-_'",
    "run_name = 'run-1'",
    "`run name` = 'run-1'",
    "attributes.start_time > 2000",
    "start_time <= 3000 AND end_time > 0",
    "created > 2000",
    "attributes.user_id = 'ana'",
    "datasets.name = 'rows'",
    "dataset.digest LIKE 'dd%'",
    "datasets.context IN ('train', 'test')",
    "datasets.name NOT IN ('rows')",
    "metrics.acc > 0.1 AND params.lr = '0.1' AND tags.team = 'x' AND status = 'FINISHED'",
    # refused
    "metrics.acc > 'x'",
    "metrics.acc LIKE '1'",
    "params.lr = 1",
    "params.lr > '1'",
    "tags.team = x",
    "attributes.nothing = 'x'",
    "nothing.lr = 'x'",
    "metrics.acc > 1 OR metrics.acc < 0",
    "(metrics.acc > 1)",
    "metrics.acc >",
    "metrics.acc",
    "AND",
    "params.lr = 'a' params.kind = 'b'",
    "params.lr IN ('0.1')",
    "status IN ('FINISHED')",
    "start_time = 'x'",
    "params.lr = 'unclosed",
    "metrics.acc > 1;",
]

ORDERS = [
    ["metrics.acc"],
    ["metrics.acc DESC"],
    ["metrics.acc ASC", "params.lr DESC"],
    ["params.kind"],
    ["params.kind DESC"],
    ["tags.team ASC"],
    ["attributes.start_time ASC"],
    ["start_time DESC"],
    ["attribute.run_name DESC"],
    ["status"],
    ["metrics.`other one` DESC"],
    ["metrics.acc SIDEWAYS"],
    ["nothing.x"],
    ["acc DESC"],
]


def search(client, name):
    from mlflow.entities import Dataset, DatasetInput, InputTag, ViewType

    experiment = client.create_experiment(name)
    settings = [
        (0.5, "0.1", "Tree", "x"),
        (0.75, "0.1", None, "x"),
        (math.nan, "0.2", "tree", "y"),
        (None, "10", "Transformer", None),
        (-2.0, None, None, None),
    ]
    for i, (acc, lr, kind, team) in enumerate(settings):
        run = client.create_run(experiment, start_time=1000 * (i + 1), run_name=f"run-{i}", tags={"mlflow.user": "ana" if i % 2 else "bob"}).info.run_id
        if acc is not None:
            client.log_metric(run, "acc", acc)
        if i == 1:
            client.log_metric(run, "other one", 2)
            client.set_tag(run, "with space", "q")
            dataset = Dataset(name="rows", digest="dd11", source_type="local", source="{}", schema="{}", profile="{}")
            client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])])
        for key, value in (("lr", lr), ("kind", kind)):
            if value is not None:
                client.log_param(run, key, value)
        if team:
            client.set_tag(run, "team", team)
        if i < 3:
            client.set_terminated(run, "FINISHED")
    facts = {}

    def find(**query):
        try:
            return [r.info.run_name for r in client.search_runs([experiment], **query)]
        except Exception as error:
            return getattr(error, "error_code", type(error).__name__)

    for query in SEARCHES:
        facts[f"filter {query}"] = find(filter_string=query)
    for order in ORDERS:
        facts[f"order {order}"] = find(order_by=order)
    some = client.search_runs([experiment], "", order_by=["attributes.run_name ASC"])
    ids = ", ".join(f"'{r.info.run_id}'" for r in some[:2])
    facts["run_id IN"] = find(filter_string=f"attributes.run_id IN ({ids})")
    facts["run_id NOT IN"] = find(filter_string=f"run_id NOT IN ({ids})")
    seen, token = [], None
    while True:
        page = client.search_runs([experiment], order_by=["metrics.acc DESC"], max_results=2, page_token=token)
        seen.append([r.info.run_name for r in page])
        token = page.token
        if not token:
            break
    facts["pages"] = seen
    client.delete_run(some[0].info.run_id)
    facts["views"] = [len(client.search_runs([experiment], run_view_type=v)) for v in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY, ViewType.ALL)]
    facts["elsewhere"] = len(client.search_runs(["999999"]))
    facts["bad token"] = find(page_token="nonsense")
    return facts


def artifacts(client, name):
    import mlflow
    import pandas

    mlflow.set_experiment(name)
    work = pathlib.Path(tempfile.mkdtemp())
    (work / "in" / "deep").mkdir(parents=True)
    (work / "in" / "a.txt").write_text("a")
    (work / "in" / "deep" / "b ü.bin").write_bytes(bytes(range(256)) * 4096)
    (work / "in" / "empty").write_bytes(b"")
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(work / "in" / "a.txt"))
        mlflow.log_artifacts(str(work / "in"), "folder")
        mlflow.log_dict({"x": [1, 2.5, None]}, "d/config.json")
        mlflow.log_dict({"x": 1}, "d/config.yml")
        mlflow.log_text("first", "t.txt")
        mlflow.log_text("second", "t.txt")
        mlflow.log_table(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "table.json")
        mlflow.log_table({"a": [3], "b": ["z"]}, "table.json")
    run_id = run.info.run_id
    listed = lambda path=None: sorted((f.path, f.is_dir, f.file_size) for f in client.list_artifacts(run_id, path))
    out = pathlib.Path(client.download_artifacts(run_id, "folder", str(work)))
    try:
        missing = client.download_artifacts(run_id, "nothing", str(work)) and "accepted"
    except Exception as error:
        missing = "refused"
    return {
        "root": listed(),
        "folder": listed("folder"),
        "deep": listed("folder/deep"),
        "file": listed("t.txt"),
        "none": listed("nothing"),
        "bytes": (out / "deep" / "b ü.bin").read_bytes() == bytes(range(256)) * 4096,
        "empty": (out / "empty").read_bytes() == b"",
        "overwritten": mlflow.artifacts.load_text(f"runs:/{run_id}/t.txt"),
        "json": mlflow.artifacts.load_dict(f"runs:/{run_id}/d/config.json"),
        "table": mlflow.load_table("table.json", run_ids=[run_id]).values.tolist(),
        "missing": missing,
        "uri": run.info.artifact_uri.split(":")[0],
    }


def inputs(client, name):
    import mlflow
    import pandas

    mlflow.set_experiment(name)
    rows = mlflow.data.from_pandas(pandas.DataFrame({"x": [1.0, 2.0], "y": [0, 1]}), source="s3://bucket/rows.parquet", name="rows", targets="y")
    with mlflow.start_run() as run:
        mlflow.log_input(rows, context="training", tags={"fold": "1"})
        mlflow.log_input(rows, context="training")
        mlflow.log_metric("acc", 0.5, dataset=rows)
    seen = client.get_run(run.info.run_id).inputs.dataset_inputs
    return [(d.dataset.name, d.dataset.digest, d.dataset.source_type, json.loads(d.dataset.source), json.loads(d.dataset.schema), json.loads(d.dataset.profile), sorted((t.key, t.value) for t in d.tags)) for d in seen]


def models(client, name):
    import mlflow
    import mlflow.sklearn
    import numpy
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    mlflow.set_experiment(name)
    x = numpy.arange(40.0).reshape(20, 2)
    y = (x[:, 0] > 15).astype(int)
    model = LogisticRegression().fit(x, y)
    with mlflow.start_run() as run:
        mlflow.log_param("c", 1.0)
        logged = mlflow.sklearn.log_model(model, name="model", signature=infer_signature(x, y), input_example=x[:2], registered_model_name=name)
        mlflow.log_metric("acc", 0.9, model_id=logged.model_id)
    client.set_registered_model_alias(name, "champion", 1)
    loaded = mlflow.sklearn.load_model(f"models:/{name}@champion")
    facts = {
        "predict": bool((loaded.predict_proba(x) == model.predict_proba(x)).all()),
        "pyfunc": mlflow.pyfunc.load_model(f"models:/{name}/1").predict(x).tolist() == y.tolist(),
        "by_run": bool((mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model").predict(x) == y).all()),
        "by_id": bool((mlflow.sklearn.load_model(f"models:/{logged.model_id}").predict(x) == y).all()),
        "latest": bool((mlflow.sklearn.load_model(f"models:/{name}/latest").predict(x) == y).all()),
    }
    seen = client.get_logged_model(logged.model_id)
    facts["logged"] = (seen.name, str(seen.status), seen.source_run_id == run.info.run_id, seen.params, [(m.key, m.value) for m in seen.metrics or []], "mlflow.modelVersions" in seen.tags)
    version = client.get_model_version(name, 1)
    facts["version"] = (str(version.version), version.status, version.current_stage, version.run_id == run.info.run_id, version.source == f"models:/{logged.model_id}", version.model_id == logged.model_id, version.aliases)
    facts["outputs"] = [m.model_id == logged.model_id for m in client.get_run(run.info.run_id).outputs.model_outputs]
    facts["files"] = sorted(pathlib.Path(f.path).name for f in client.list_logged_model_artifacts(logged.model_id))
    facts["found"] = [m.name for m in client.search_logged_models([run.info.experiment_id], "name = 'model' AND metrics.acc > 0.5")]
    facts["found_by"] = [
        len(client.search_logged_models([run.info.experiment_id], q))
        for q in ("params.c = '1.0'", "params.c = '2'", "metrics.acc < 0.5", f"source_run_id = '{run.info.run_id}'", "status = 'READY'", "attributes.name LIKE 'mod%'")
    ]
    second = mlflow.register_model(f"models:/{logged.model_id}", name)
    third = mlflow.register_model(f"runs:/{run.info.run_id}/model", name)
    facts["registered"] = (str(second.version), str(third.version))
    client.set_logged_model_tags(logged.model_id, {"a": "b"})
    client.delete_logged_model_tag(logged.model_id, "a")
    facts["untagged"] = "a" in client.get_logged_model(logged.model_id).tags
    extra = mlflow.initialize_logged_model(name="external", params={"p": "1"}, tags={"t": "2"})
    mlflow.log_model_params({"q": "3"}, extra.model_id)
    facts["pending"] = (str(client.get_logged_model(extra.model_id).status), client.get_logged_model(extra.model_id).params)
    mlflow.finalize_logged_model(extra.model_id, "FAILED")
    facts["failed"] = str(client.get_logged_model(extra.model_id).status)
    client.delete_logged_model(extra.model_id)
    facts["gone"] = refused(client.get_logged_model, extra.model_id)
    return facts


def registry(client, name):
    from mlflow.entities.model_registry import RegisteredModelTag

    import mlflow

    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mlflow.log_text("flavors: {}\nmodel_uuid: x\n", "m/MLmodel")
    source = f"{run.info.artifact_uri}/m"
    client.create_registered_model(name, tags={"k": "v"}, description="d")
    facts = {"twice": refused(client.create_registered_model, name), "bad_names": [refused(client.create_registered_model, bad) for bad in ("", "a/b", "a:b")]}
    version = lambda **k: client.create_model_version(name, source, run.info.run_id, await_creation_for=0, **k)
    facts["versions"] = [str(version(tags={"n": str(i)}, description=f"number {i}").version) for i in range(4)]
    client.set_registered_model_alias(name, "champion", 1)
    client.set_registered_model_alias(name, "also", 1)
    client.set_registered_model_alias(name, "challenger", "2")
    client.set_registered_model_alias(name, "champion", 2)
    model = client.get_registered_model(name)
    facts["model"] = (model.name, model.description, model.tags, {k: str(v) for k, v in model.aliases.items()}, [str(v.version) for v in model.latest_versions])
    facts["by_alias"] = str(client.get_model_version_by_alias(name, "champion").version)
    facts["aliases"] = sorted(client.get_model_version(name, 2).aliases)
    client.delete_registered_model_alias(name, "also")
    client.delete_registered_model_alias(name, "never")
    facts["alias_errors"] = (
        refused(client.get_model_version_by_alias, name, "also"),
        refused(client.set_registered_model_alias, name, "latest", 1),
        refused(client.set_registered_model_alias, name, "v3", 1),
        refused(client.set_registered_model_alias, name, "a b", 1),
        refused(client.set_registered_model_alias, name, "x", 99),
        refused(client.set_registered_model_alias, "never", "x", 1),
    )
    facts["stages"] = []
    for number, stage, archive in ((1, "Staging", False), (2, "staging", False), (3, "Production", False), (4, "Production", True)):
        moved = client.transition_model_version_stage(name, number, stage, archive)
        facts["stages"].append((str(moved.version), moved.current_stage))
    facts["now"] = {str(v.version): v.current_stage for v in client.search_model_versions(f"name = '{name}'")}
    facts["latest"] = sorted((str(v.version), v.current_stage) for v in client.get_latest_versions(name))
    facts["latest_in"] = sorted((str(v.version), v.current_stage) for v in client.get_latest_versions(name, ["Staging"]))
    facts["bad_stage"] = (
        refused(client.transition_model_version_stage, name, 1, "Anything"),
        refused(client.transition_model_version_stage, name, 1, "None", True),
    )
    client.update_registered_model(name, "new words")
    client.update_model_version(name, 1, "first")
    client.set_registered_model_tag(name, "more", "1")
    client.delete_registered_model_tag(name, "k")
    client.set_model_version_tag(name, "1", "t", "1")
    client.delete_model_version_tag(name, "1", "n")
    facts["edited"] = (client.get_registered_model(name).description, client.get_registered_model(name).tags, client.get_model_version(name, 1).description, client.get_model_version(name, 1).tags)
    find = lambda q, **k: [str(v.version) for v in client.search_model_versions(q, **k)]
    here = f"name = '{name}'"
    facts["search"] = {
        q.replace(run.info.run_id, "RUN") or "name only": find(f"{here} AND {q}" if q else here)
        for q in ("", "version_number > 2", "version_number <= 2", "version_number = 3", "version_number != 3", "tags.t = '1'", "tags.n = '2'", "tag.n != '2'", f"run_id = '{run.info.run_id}'", "run_id IN ('nothing')", "tags.n LIKE '%'")
    }
    facts["order"] = (find(here, order_by=["version_number ASC"]), find(here, order_by=["version_number DESC"]))
    page = client.search_model_versions(here, max_results=3, order_by=["version_number ASC"])
    facts["page"] = (len(page), len(client.search_model_versions(here, max_results=3, order_by=["version_number ASC"], page_token=page.token)))
    facts["bad_search"] = [
        refused(client.search_model_versions, q) for q in ("stage = 'x'", "version_number > 'x'", "name > 'a'", "name = 'a' OR name = 'b'", "nothing", "tags.t = 1")
    ]
    client.create_registered_model(f"{name}-2", tags=None)
    models = lambda q, **k: [m.name.removeprefix(name) for m in client.search_registered_models(q, **k)]
    like = f"name LIKE '{name}%'"
    facts["models"] = {
        "all": models(like),
        "down": models(like, order_by=["name DESC"]),
        "tag": models(like + " AND tags.more = '1'"),
        "not tag": models(like + " AND tag.`mlflow.prompt.is_prompt` != 'true'"),
        "ilike": models(f"name ILIKE '{name.upper()}%'"),
        "exact": models(f"name = '{name}'"),
    }
    copy = client.copy_model_version(f"models:/{name}/1", f"{name}-2")
    facts["copied"] = (copy.name.removeprefix(name), str(copy.version), client.get_model_version_download_uri(f"{name}-2", 1) == client.get_model_version_download_uri(name, 1))
    client.rename_registered_model(f"{name}-2", f"{name}-3")
    renamed = client.get_registered_model(f"{name}-3")
    facts["renamed"] = (renamed.name.removeprefix(name), refused(client.get_registered_model, f"{name}-2"), len(client.search_model_versions(f"name = '{name}-3'")))
    client.delete_model_version(name, 2)
    facts["deleted"] = (
        refused(client.get_model_version, name, 2),
        refused(client.get_model_version_by_alias, name, "champion"),
        sorted(client.get_registered_model(name).aliases),
        str(version().version),
    )
    client.delete_registered_model(f"{name}-3")
    facts["model_deleted"] = (refused(client.get_registered_model, f"{name}-3"), refused(client.delete_registered_model, f"{name}-3"), len(client.search_model_versions(f"name = '{name}-3'")))
    return facts


def autolog(client, name):
    import mlflow
    import mlflow.sklearn
    from sklearn.datasets import load_iris
    from sklearn.tree import DecisionTreeClassifier

    mlflow.set_experiment(name)
    mlflow.sklearn.autolog(silent=True)
    x, y = load_iris(return_X_y=True, as_frame=True)
    with mlflow.start_run() as run:
        DecisionTreeClassifier(max_depth=3, random_state=0).fit(x, y)
    mlflow.sklearn.autolog(disable=True)
    run = client.get_run(run.info.run_id)
    files = sorted(f.path for f in client.list_artifacts(run.info.run_id))
    return {
        "params": run.data.params,
        "metrics": {k: round(v, 9) for k, v in run.data.metrics.items()},
        "inputs": [(d.dataset.name, d.dataset.digest, [(t.key, t.value) for t in d.tags]) for d in run.inputs.dataset_inputs],
        "models": len(run.outputs.model_outputs),
        "files": files,
    }


def webhooks(client, name):
    """Sets webhooks up, lets things happen, and receives what is told of them, checked with MLflow's own signature."""
    import http.server
    import threading
    import time
    import uuid

    import mlflow
    from mlflow.webhooks.delivery import _generate_hmac_signature

    got, answers = [], []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, dict(self.headers.items()), self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(answers.pop(0) if answers else 200)
            self.end_headers()
            self.wfile.write(b"thanks")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"

    def signed(secret):
        """Of what was received: how many there are, whether all have MLflow's signature, fresh times and ids of their own."""
        headers = [{key.lower(): value for key, value in headers.items()} for _, headers, _ in got]
        ids = [h["x-mlflow-delivery-id"] for h in headers]
        good = [
            _generate_hmac_signature(secret, h["x-mlflow-delivery-id"], h["x-mlflow-timestamp"], body) == h["x-mlflow-signature"]
            and abs(time.time() - int(h["x-mlflow-timestamp"])) < 60
            and str(uuid.UUID(h["x-mlflow-delivery-id"])) == h["x-mlflow-delivery-id"]
            for h, (_, _, body) in zip(headers, got)
        ]
        return len(got), all(good), len(set(ids)), sorted({h["content-type"] for h in headers})

    def seen(webhook):
        return (webhook.name, webhook.url.removeprefix(url), sorted(str(e) for e in webhook.events), webhook.description, str(webhook.status), webhook.secret)

    everything = ["registered_model.created", "model_version.created", "model_version_tag.set", "model_version_tag.deleted", "model_version_alias.created", "model_version_alias.deleted"]
    webhook = client.create_webhook(name, f"{url}/all?x=1", everything, description="d", secret="s3cret")
    facts = {"created": seen(webhook), "read": seen(client.get_webhook(webhook.webhook_id))}
    other = client.create_webhook(f"{name}-2", f"{url}/other", ["model_version_alias.created"])
    listed = [w for w in client.list_webhooks() if w.name.startswith(name)]
    page = client.list_webhooks(max_results=1)
    facts["listed"] = (sorted(seen(w) for w in listed), len(page), len(client.list_webhooks(max_results=1, page_token=page.token)), page.token is not None)
    facts["same_times"] = webhook.creation_timestamp == webhook.last_updated_timestamp

    test = client.test_webhook(webhook.webhook_id)
    facts["test"] = (test.success, test.response_status, test.response_body, test.error_message)
    facts["tests"] = []
    for event in everything:
        client.test_webhook(webhook.webhook_id, event)
        path, _, body = got[-1]
        body = json.loads(body)
        facts["tests"].append((path, body["entity"], body["action"], body["data"], sorted(body)))
    facts["tests_signed"] = signed("s3cret")
    answers.append(404)
    test = client.test_webhook(webhook.webhook_id)
    facts["test_refused"] = (test.success, test.response_status, test.response_body, test.error_message)

    got.clear()
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mlflow.log_text("flavors: {}\nmodel_uuid: x\n", "m/MLmodel")
    source = f"{run.info.artifact_uri}/m"
    client.create_registered_model(name, tags={"k": "v"}, description="d")
    client.create_registered_model(f"{name}-2")
    client.create_model_version(name, source, run.info.run_id, tags={"n": "1"}, description="one", await_creation_for=0)
    client.create_model_version(name, source, run.info.run_id, await_creation_for=0)
    client.set_model_version_tag(name, "1", "k", "v\u00e9")
    client.delete_model_version_tag(name, "1", "k")
    client.set_registered_model_alias(name, "champion", 1)
    client.set_registered_model_alias(name, "champion", 2)
    client.delete_registered_model_alias(name, "champion")
    # MLflow's come in any order.
    deadline = time.time() + 30
    while len(got) < 11 and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(1)

    def told(path, body):
        body = json.loads(body)
        data = body["data"] | ({"source": body["data"]["source"] == source, "run_id": body["data"]["run_id"] == run.info.run_id} if "source" in body["data"] else {})
        return path, body["entity"], body["action"], data, sorted(body)

    facts["told"] = sorted((told(path, body) for path, _, body in got), key=lambda entry: json.dumps(entry, sort_keys=True))
    unsigned = [entry for entry in got if entry[0] == "/other"]
    facts["unsigned"] = [any(key.lower() == "x-mlflow-signature" for key in headers) for _, headers, _ in unsigned]
    got[:] = [entry for entry in got if entry[0] != "/other"]
    facts["signed"] = signed("s3cret")

    got.clear()
    webhook = client.update_webhook(webhook.webhook_id, name=f"{name}-3", url=f"{url}/new", events=["model_version_alias.deleted", "registered_model.created"], description="", secret="other", status="DISABLED")
    facts["updated"] = (seen(webhook), seen(client.update_webhook(other.webhook_id)))
    client.delete_webhook(other.webhook_id)
    client.create_registered_model(f"{name}-3")
    time.sleep(1)
    client.update_webhook(webhook.webhook_id, status="ACTIVE")
    client.create_registered_model(f"{name}-4")
    deadline = time.time() + 30
    while not got and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    facts["after_pause"] = ([told(path, body) for path, _, body in got], signed("other"))
    bad = lambda name=name, url=url, events=("registered_model.created",), **k: refused(client.create_webhook, name, url, list(events), **k)
    facts["refused"] = [
        bad(name=""), bad(name="a b"), bad(name="-a"), bad(name="x" * 64), bad(url="ftp://127.0.0.1/"), bad(url="nowhere"), bad(url="http://"),
        refused(client.get_webhook, other.webhook_id), refused(client.delete_webhook, other.webhook_id), refused(client.update_webhook, other.webhook_id, name="x"),
        refused(client.test_webhook, other.webhook_id), refused(client.get_webhook, "never"), refused(client.list_webhooks, max_results=1001),
    ]
    facts["twice"] = seen(client.create_webhook(webhook.name, url, ["registered_model.created"]))
    for left in client.list_webhooks():
        client.delete_webhook(left.webhook_id)
    facts["left"] = len(client.list_webhooks())
    server.shutdown()
    return facts


CASES = [experiments, runs, metrics, search, artifacts, inputs, models, registry, webhooks, autolog]


def plain(value):
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if value is None or isinstance(value, (str, int, float)):
        return value
    return [plain(v) for v in value]


def run(uri, path):
    import logging
    import traceback

    import mlflow

    mlflow.set_tracking_uri(uri)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    client = mlflow.MlflowClient()
    facts, failed = {}, False
    stamp = os.environ.get("MLFLOW_CASE_PREFIX", "case")
    wanted = os.environ.get("MLFLOW_CASES", "").split(",")
    for case in CASES:
        if wanted != [""] and case.__name__ not in wanted:
            continue
        try:
            facts[case.__name__] = plain(case(client, f"{stamp}-{case.__name__}"))
        except Exception:
            failed = True
            facts[case.__name__] = {"raised": traceback.format_exc().strip().splitlines()[-1]}
            traceback.print_exc()
        print(f"{case.__name__}: {'raised' if 'raised' in facts[case.__name__] else 'done'}", flush=True)
    pathlib.Path(path).write_text(json.dumps(facts, indent=1, sort_keys=True))
    return failed


def diff(ours, theirs):
    ours, theirs = (json.loads(pathlib.Path(p).read_text()) for p in (ours, theirs))
    differ = 0
    for case in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(case), theirs.get(case)
        paths = sorted(a.keys() | b.keys()) if isinstance(a, dict) and isinstance(b, dict) else [None]
        for path in paths:
            x, y = (a, b) if path is None else (a.get(path), b.get(path))
            if x == y:
                continue
            why = ALLOWED.get(case, {}).get(path)
            differ += why is None
            print(f"{case} / {path}: {'allowed, ' + why if why else 'DIFFERS'}\n  ours   {json.dumps(x)}\n  theirs {json.dumps(y)}")
    print(f"{differ} differences without a reason")
    return differ > 0


if __name__ == "__main__":
    sys.exit({"run": run, "diff": diff}[sys.argv[1]](*sys.argv[2:]))
