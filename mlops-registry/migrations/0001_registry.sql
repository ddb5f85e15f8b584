-- Written so that SQLite and PostgreSQL take the same text: times are microseconds since 1970, ids and digests TEXT,
-- structured values JSON in TEXT. Upserts and compare-and-swap on rows order writers; no statement needs a table lock.

-- The ends of the sequences that must have no gap and no fork. Whoever appends updates the row first.
CREATE TABLE heads (
    name   TEXT   NOT NULL PRIMARY KEY,
    seq    BIGINT NOT NULL,
    digest TEXT   NOT NULL
);
INSERT INTO heads (name, seq, digest) VALUES
    ('audit', 0, '0000000000000000000000000000000000000000000000000000000000000000'),
    ('event', 0, ''),
    ('promotion', 0, '');

CREATE TABLE audit_log (
    seq          BIGINT NOT NULL PRIMARY KEY,
    at           BIGINT NOT NULL,
    actor        TEXT   NOT NULL,
    action       TEXT   NOT NULL,
    resource     TEXT   NOT NULL,
    value_before TEXT   NOT NULL,
    value_after  TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    previous     TEXT   NOT NULL,
    digest       TEXT   NOT NULL
);

CREATE INDEX audit_log_by_time ON audit_log (at);

CREATE TABLE events (
    seq       BIGINT NOT NULL PRIMARY KEY,
    at        BIGINT NOT NULL,
    kind      TEXT   NOT NULL,
    model     TEXT   NOT NULL,
    version   BIGINT,
    alias     TEXT,
    revision  BIGINT,
    promotion TEXT
);

CREATE TABLE lineage_nodes (
    kind TEXT NOT NULL,
    id   TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE TABLE lineage_facts (
    kind  TEXT NOT NULL,
    id    TEXT NOT NULL,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, id, name)
);
CREATE TABLE lineage_edges (
    from_kind TEXT NOT NULL,
    from_id   TEXT NOT NULL,
    to_kind   TEXT NOT NULL,
    to_id     TEXT NOT NULL,
    PRIMARY KEY (from_kind, from_id, to_kind, to_id)
);
CREATE INDEX lineage_edges_to ON lineage_edges (to_kind, to_id);

CREATE TABLE experiments (
    name       TEXT   NOT NULL PRIMARY KEY,
    id         TEXT   NOT NULL UNIQUE,
    tags       TEXT   NOT NULL,
    author     TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
-- `content` is the digest of what the run was started with: it tells a repeated start from another run.
CREATE TABLE runs (
    id         TEXT   NOT NULL PRIMARY KEY,
    experiment TEXT   NOT NULL REFERENCES experiments (name),
    name       TEXT   NOT NULL,
    parent     TEXT   REFERENCES runs (id),
    status     TEXT   NOT NULL,
    author     TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT,
    content    TEXT   NOT NULL
);
CREATE INDEX runs_by_start ON runs (experiment, started_at, id);
CREATE TABLE run_params (
    run_id TEXT NOT NULL REFERENCES runs (id),
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
);
CREATE TABLE run_tags (
    run_id TEXT NOT NULL REFERENCES runs (id),
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
);
-- A NaN is `is_nan = 1, value = 0`: SQLite has no NaN, and so a repeated point is found by the key.
CREATE TABLE run_metrics (
    run_id    TEXT             NOT NULL REFERENCES runs (id),
    name      TEXT             NOT NULL,
    step      BIGINT           NOT NULL,
    logged_at BIGINT           NOT NULL,
    is_nan    BIGINT           NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run_id, name, step, logged_at, is_nan, value)
);
CREATE TABLE run_latest_metrics (
    run_id    TEXT             NOT NULL REFERENCES runs (id),
    name      TEXT             NOT NULL,
    step      BIGINT           NOT NULL,
    logged_at BIGINT           NOT NULL,
    is_nan    BIGINT           NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run_id, name)
);
CREATE TABLE run_inputs (
    run_id  TEXT NOT NULL REFERENCES runs (id),
    dataset TEXT NOT NULL,
    digest  TEXT NOT NULL,
    context TEXT NOT NULL,
    PRIMARY KEY (run_id, dataset, digest, context)
);
CREATE TABLE run_artifacts (
    run_id TEXT   NOT NULL REFERENCES runs (id),
    path   TEXT   NOT NULL,
    digest TEXT   NOT NULL,
    bytes  BIGINT NOT NULL,
    PRIMARY KEY (run_id, path)
);

CREATE TABLE models (
    name         TEXT   NOT NULL PRIMARY KEY,
    description  TEXT   NOT NULL,
    tags         TEXT   NOT NULL,
    author       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    last_version BIGINT NOT NULL
);
CREATE TABLE alias_policies (
    model     TEXT   NOT NULL REFERENCES models (name),
    alias     TEXT   NOT NULL,
    approvals BIGINT NOT NULL,
    evidence  TEXT   NOT NULL,
    PRIMARY KEY (model, alias)
);
-- `run_id` is '' where no run is known, so that the unique key holds for those too.
CREATE TABLE versions (
    model       TEXT   NOT NULL REFERENCES models (name),
    version     BIGINT NOT NULL,
    package     TEXT   NOT NULL,
    run_id      TEXT   NOT NULL,
    description TEXT   NOT NULL,
    tags        TEXT   NOT NULL,
    author      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (model, version),
    UNIQUE (model, package, run_id)
);
-- `undo_to` is the promotion that undoing this one returns to; NULL for the first and for rollbacks.
CREATE TABLE promotions (
    id              TEXT   NOT NULL PRIMARY KEY,
    place           BIGINT NOT NULL UNIQUE,
    kind            TEXT   NOT NULL,
    model           TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    alias           TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    requested_by    TEXT   NOT NULL,
    requested_at    BIGINT NOT NULL,
    reason          TEXT   NOT NULL,
    evidence        TEXT   NOT NULL,
    content         TEXT   NOT NULL,
    seen_revision   BIGINT NOT NULL,
    from_version    BIGINT,
    decided_by      TEXT,
    decided_at      BIGINT,
    decision_reason TEXT,
    revision        BIGINT,
    undo_to         TEXT,
    FOREIGN KEY (model, version) REFERENCES versions (model, version),
    UNIQUE (model, alias, revision)
);
CREATE INDEX promotions_by_model ON promotions (model, place);
CREATE TABLE approvals (
    promotion   TEXT   NOT NULL REFERENCES promotions (id),
    place       BIGINT NOT NULL,
    approver    TEXT   NOT NULL,
    approved_at BIGINT NOT NULL,
    comment     TEXT   NOT NULL,
    PRIMARY KEY (promotion, approver)
);
-- `promotion` moved the alias last; `standing` is the one that the next rollback undoes.
CREATE TABLE aliases (
    model     TEXT   NOT NULL,
    alias     TEXT   NOT NULL,
    version   BIGINT NOT NULL,
    revision  BIGINT NOT NULL,
    moved_at  BIGINT NOT NULL,
    promotion TEXT   NOT NULL REFERENCES promotions (id),
    standing  TEXT   NOT NULL REFERENCES promotions (id),
    PRIMARY KEY (model, alias),
    FOREIGN KEY (model, version) REFERENCES versions (model, version)
);
