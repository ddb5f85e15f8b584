-- `key` is what runs refer to and never changes: the first name of an older experiment, the id of a newer one.
ALTER TABLE experiments RENAME COLUMN name TO key;
ALTER TABLE experiments ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE experiments ADD COLUMN artifact_location TEXT;
ALTER TABLE experiments ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE experiments ADD COLUMN deleted_at BIGINT;
-- The digest of what it was created with; '' where that is not known.
ALTER TABLE experiments ADD COLUMN content TEXT NOT NULL DEFAULT '';
UPDATE experiments SET name = key, updated_at = created_at;
CREATE UNIQUE INDEX experiments_by_name ON experiments (name);
CREATE INDEX experiments_newest ON experiments (created_at DESC, id);

CREATE TABLE experiment_tags (
    experiment_key TEXT NOT NULL REFERENCES experiments (key),
    name           TEXT NOT NULL,
    value          TEXT NOT NULL,
    PRIMARY KEY (experiment_key, name)
);
INSERT INTO experiment_tags (experiment_key, name, value)
    SELECT experiments.key, tag.key, tag.value FROM experiments, json_each(tags) AS tag;
ALTER TABLE experiments DROP COLUMN tags;

ALTER TABLE runs RENAME COLUMN experiment TO experiment_key;
ALTER TABLE runs ADD COLUMN deleted_at BIGINT;
DROP INDEX runs_by_start;
CREATE INDEX runs_newest ON runs (experiment_key, started_at DESC, id);

-- Values are found by how they begin: an entry of PostgreSQL's indexes has a greatest length.
CREATE INDEX run_params_by_value ON run_params (name, substr(value, 1, 250), run_id);
CREATE INDEX run_tags_by_value ON run_tags (name, substr(value, 1, 250), run_id);

-- A series is one metric of one run. Its number stands for both in each point, and so most of a point is what was measured.
ALTER TABLE run_latest_metrics RENAME TO latest_before;
CREATE TABLE run_latest_metrics (
    series    INTEGER          PRIMARY KEY,
    run_id    TEXT             NOT NULL REFERENCES runs (id),
    name      TEXT             NOT NULL,
    step      BIGINT           NOT NULL,
    logged_at BIGINT           NOT NULL,
    is_nan    BIGINT           NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    model_id  TEXT,
    dataset   TEXT,
    digest    TEXT,
    UNIQUE (run_id, name)
);
INSERT INTO run_latest_metrics (run_id, name, step, logged_at, is_nan, value)
    SELECT run_id, name, step, logged_at, is_nan, value FROM latest_before ORDER BY run_id, name;
INSERT INTO run_latest_metrics (run_id, name, step, logged_at, is_nan, value)
    SELECT run_id, name, step, logged_at, is_nan, value FROM (
        SELECT run_id, name, step, logged_at, is_nan, value, ROW_NUMBER() OVER (
            PARTITION BY run_id, name ORDER BY step DESC, logged_at DESC, is_nan, value DESC) AS place
        FROM run_metrics) AS ranked
    WHERE place = 1 AND NOT EXISTS (
        SELECT 1 FROM latest_before WHERE latest_before.run_id = ranked.run_id AND latest_before.name = ranked.name);
DROP TABLE latest_before;
CREATE INDEX run_latest_metrics_by_value ON run_latest_metrics (name, is_nan, value, run_id);

ALTER TABLE run_metrics RENAME TO points_before;
CREATE TABLE run_metrics (
    series    BIGINT           NOT NULL,
    step      BIGINT           NOT NULL,
    logged_at BIGINT           NOT NULL,
    is_nan    BIGINT           NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    model_id  TEXT,
    dataset   TEXT,
    digest    TEXT,
    PRIMARY KEY (series, step, logged_at, is_nan, value)
) WITHOUT ROWID;
INSERT INTO run_metrics (series, step, logged_at, is_nan, value)
    SELECT l.series, p.step, p.logged_at, p.is_nan, p.value
    FROM points_before p JOIN run_latest_metrics l ON l.run_id = p.run_id AND l.name = p.name;
DROP TABLE points_before;

ALTER TABLE run_inputs ADD COLUMN source_type TEXT NOT NULL DEFAULT 'mlops';
ALTER TABLE run_inputs ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE run_inputs ADD COLUMN columns TEXT;
ALTER TABLE run_inputs ADD COLUMN profile TEXT;
ALTER TABLE run_inputs ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
UPDATE run_inputs SET source = dataset || '@' || digest;
CREATE INDEX run_inputs_by_dataset ON run_inputs (dataset, digest, run_id);

CREATE TABLE logged_models (
    id             TEXT   NOT NULL PRIMARY KEY,
    experiment_key TEXT   NOT NULL REFERENCES experiments (key),
    name           TEXT   NOT NULL,
    model_type     TEXT,
    source_run     TEXT   REFERENCES runs (id),
    status         TEXT   NOT NULL,
    author         TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    deleted_at     BIGINT,
    content        TEXT   NOT NULL
);
CREATE INDEX logged_models_newest ON logged_models (experiment_key, created_at DESC, id);
CREATE TABLE logged_model_params (
    model_id TEXT NOT NULL REFERENCES logged_models (id),
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (model_id, name)
);
CREATE INDEX logged_model_params_by_value ON logged_model_params (name, substr(value, 1, 250), model_id);
CREATE TABLE logged_model_tags (
    model_id TEXT NOT NULL REFERENCES logged_models (id),
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (model_id, name)
);
CREATE INDEX logged_model_tags_by_value ON logged_model_tags (name, substr(value, 1, 250), model_id);
-- The latest point for each run and dataset; `dataset` and `digest` are '' where none was given.
CREATE TABLE logged_model_metrics (
    model_id  TEXT             NOT NULL REFERENCES logged_models (id),
    name      TEXT             NOT NULL,
    run_id    TEXT             NOT NULL REFERENCES runs (id),
    dataset   TEXT             NOT NULL,
    digest    TEXT             NOT NULL,
    step      BIGINT           NOT NULL,
    logged_at BIGINT           NOT NULL,
    is_nan    BIGINT           NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (model_id, name, run_id, dataset, digest)
);
CREATE INDEX logged_model_metrics_by_value ON logged_model_metrics (name, is_nan, value, model_id);
CREATE TABLE logged_model_artifacts (
    model_id TEXT   NOT NULL REFERENCES logged_models (id),
    path     TEXT   NOT NULL,
    digest   TEXT   NOT NULL,
    bytes    BIGINT NOT NULL,
    PRIMARY KEY (model_id, path)
);
CREATE TABLE run_models (
    run_id   TEXT   NOT NULL REFERENCES runs (id),
    model_id TEXT   NOT NULL REFERENCES logged_models (id),
    role     TEXT   NOT NULL,
    step     BIGINT NOT NULL,
    PRIMARY KEY (run_id, model_id, role)
);
CREATE INDEX run_models_by_model ON run_models (model_id);
