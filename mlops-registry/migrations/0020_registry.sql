-- Edits, deletions, stages, holds, and policies that say more. Tables that others refer to are made anew, with keys that
-- follow a model's name; what they held is copied.

ALTER TABLE models ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
UPDATE models SET updated_at = created_at;
-- The digest of what it was registered with; NULL while that is what it still says.
ALTER TABLE models ADD COLUMN content TEXT;
-- A deleted model keeps its name and number, so that neither is given twice.
ALTER TABLE models ADD COLUMN deleted_at BIGINT;
ALTER TABLE models ADD COLUMN renamed_to TEXT;

ALTER TABLE events ADD COLUMN stage TEXT;
ALTER TABLE events ADD COLUMN details TEXT;

-- What it takes to move an alias or a stage, as JSON.
CREATE TABLE policies (
    model   TEXT NOT NULL REFERENCES models (name) ON UPDATE CASCADE,
    target  TEXT NOT NULL,
    name    TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (model, target, name)
);
INSERT INTO policies (model, target, name, content)
SELECT model, 'alias', alias, '{"approvals":' || approvals || ',"evidence":"' || evidence || '"}' FROM alias_policies;
DROP TABLE alias_policies;

-- The stages of a model, or of all without their own where `model` is ''.
CREATE TABLE stage_tables (
    model   TEXT NOT NULL PRIMARY KEY,
    content TEXT NOT NULL
);

ALTER TABLE versions RENAME TO versions_1;
ALTER TABLE promotions RENAME TO promotions_1;
ALTER TABLE approvals RENAME TO approvals_1;
ALTER TABLE aliases RENAME TO aliases_1;
DROP INDEX promotions_by_model;

-- `run_id` is '' where no run is known, and `request_key` where none was given, so that the unique key holds for those too.
CREATE TABLE versions (
    model          TEXT   NOT NULL REFERENCES models (name) ON UPDATE CASCADE,
    version        BIGINT NOT NULL,
    package        TEXT   NOT NULL,
    run_id         TEXT   NOT NULL,
    request_key    TEXT   NOT NULL,
    source         TEXT   NOT NULL,
    run_link       TEXT   NOT NULL,
    logged_model   TEXT,
    description    TEXT   NOT NULL,
    tags           TEXT   NOT NULL,
    author         TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    stage          TEXT   NOT NULL,
    stage_revision BIGINT NOT NULL,
    stage_moved_at BIGINT NOT NULL,
    content        TEXT,
    deleted_at     BIGINT,
    PRIMARY KEY (model, version)
);
INSERT INTO versions (model, version, package, run_id, request_key, source, run_link, description, tags, author,
    created_at, updated_at, stage, stage_revision, stage_moved_at)
SELECT model, version, package, run_id, '', '', '', description, tags, author, created_at, created_at, 'None', 0, created_at
FROM versions_1;
CREATE UNIQUE INDEX versions_once ON versions (model, package, run_id, request_key) WHERE deleted_at IS NULL;

-- `target` is 'alias' or 'stage' and `name` which one. `undo_to` is the promotion of an alias that undoing this one
-- returns to; NULL for the first and for rollbacks. The version may be gone.
CREATE TABLE promotions (
    id               TEXT   NOT NULL PRIMARY KEY,
    place            BIGINT NOT NULL UNIQUE,
    kind             TEXT   NOT NULL,
    model            TEXT   NOT NULL REFERENCES models (name) ON UPDATE CASCADE,
    version          BIGINT NOT NULL,
    target           TEXT   NOT NULL,
    name             TEXT   NOT NULL,
    state            TEXT   NOT NULL,
    requested_by     TEXT   NOT NULL,
    requested_at     BIGINT NOT NULL,
    reason           TEXT   NOT NULL,
    evidence         TEXT   NOT NULL,
    content          TEXT   NOT NULL,
    seen_revision    BIGINT NOT NULL,
    from_version     BIGINT,
    from_stage       TEXT,
    archive_existing BIGINT NOT NULL,
    decided_by       TEXT,
    decided_at       BIGINT,
    decision_reason  TEXT,
    revision         BIGINT,
    undo_to          TEXT
);
INSERT INTO promotions (id, place, kind, model, version, target, name, state, requested_by, requested_at, reason,
    evidence, content, seen_revision, from_version, archive_existing, decided_by, decided_at, decision_reason, revision,
    undo_to)
SELECT id, place, kind, model, version, 'alias', alias, state, requested_by, requested_at, reason, evidence, content,
    seen_revision, from_version, 0, decided_by, decided_at, decision_reason, revision, undo_to
FROM promotions_1;
CREATE INDEX promotions_by_model ON promotions (model, place);
CREATE INDEX promotions_by_content ON promotions (content);
CREATE UNIQUE INDEX promotions_of_alias ON promotions (model, name, revision) WHERE target = 'alias';
CREATE UNIQUE INDEX promotions_of_stage ON promotions (model, version, revision) WHERE target = 'stage';

CREATE TABLE approvals (
    promotion   TEXT   NOT NULL REFERENCES promotions (id),
    place       BIGINT NOT NULL,
    approver    TEXT   NOT NULL,
    approved_at BIGINT NOT NULL,
    comment     TEXT   NOT NULL,
    roles       TEXT   NOT NULL,
    PRIMARY KEY (promotion, approver)
);
INSERT INTO approvals (promotion, place, approver, approved_at, comment, roles)
SELECT promotion, place, approver, approved_at, comment, '[]' FROM approvals_1;

-- `version` is NULL while the alias is removed. `promotion` moved it last; `standing` is the one that the next rollback
-- undoes.
CREATE TABLE aliases (
    model     TEXT   NOT NULL REFERENCES models (name) ON UPDATE CASCADE,
    alias     TEXT   NOT NULL,
    version   BIGINT,
    revision  BIGINT NOT NULL,
    moved_at  BIGINT NOT NULL,
    promotion TEXT   NOT NULL REFERENCES promotions (id),
    standing  TEXT   NOT NULL REFERENCES promotions (id),
    PRIMARY KEY (model, alias)
);
INSERT INTO aliases (model, alias, version, revision, moved_at, promotion, standing)
SELECT model, alias, version, revision, moved_at, promotion, standing FROM aliases_1;

DROP TABLE aliases_1;
DROP TABLE approvals_1;
DROP TABLE promotions_1;
DROP TABLE versions_1;

CREATE TABLE holds (
    model          TEXT   NOT NULL REFERENCES models (name) ON UPDATE CASCADE,
    version        BIGINT NOT NULL,
    place          BIGINT NOT NULL,
    held_by        TEXT   NOT NULL,
    held_at        BIGINT NOT NULL,
    reason         TEXT   NOT NULL,
    released_by    TEXT,
    released_at    BIGINT,
    release_reason TEXT,
    PRIMARY KEY (model, version, place)
);

-- What a package consists of, its own list of files aside. A package never changes.
CREATE TABLE package_files (
    package TEXT NOT NULL,
    digest  TEXT NOT NULL,
    PRIMARY KEY (package, digest)
);

-- What models and versions are searched by; `tags` beside their other columns has the same.
CREATE TABLE model_tags (
    model TEXT NOT NULL REFERENCES models (name) ON UPDATE CASCADE,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, name)
);
INSERT INTO model_tags (model, name, value)
SELECT models.name, tag.key, tag.value FROM models, json_each(tags) AS tag;
CREATE INDEX model_tags_by_value ON model_tags (name, substr(value, 1, 250));
CREATE TABLE version_tags (
    model   TEXT   NOT NULL REFERENCES models (name) ON UPDATE CASCADE,
    version BIGINT NOT NULL,
    name    TEXT   NOT NULL,
    value   TEXT   NOT NULL,
    PRIMARY KEY (model, version, name)
);
INSERT INTO version_tags (model, version, name, value)
SELECT versions.model, versions.version, tag.key, tag.value FROM versions, json_each(tags) AS tag;
CREATE INDEX version_tags_by_value ON version_tags (name, substr(value, 1, 250));
CREATE INDEX versions_by_run ON versions (run_id);
