-- Addresses that are told what happens. `subscriptions` is JSON: each kind of event, and the last event before it was asked
-- for. `secret` is as it was given where `secret_key` is NULL, and encrypted with the key of that name otherwise. `seen` is
-- the last event that was told, `holder` who tells the next one, until `held_until`. `content` is the digest of what it was
-- created with. A deleted one keeps its row, without the secret.
CREATE TABLE webhooks (
    id            TEXT   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL,
    description   TEXT   NOT NULL,
    url           TEXT   NOT NULL,
    subscriptions TEXT   NOT NULL,
    status        TEXT   NOT NULL,
    secret        TEXT,
    secret_key    TEXT,
    author        TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    deleted_at    BIGINT,
    content       TEXT   NOT NULL,
    seen          BIGINT NOT NULL,
    holder        TEXT,
    held_until    BIGINT NOT NULL
);

-- What was told, is being told, or could not be told. `payload` is '' once that is over.
CREATE TABLE webhook_deliveries (
    webhook     TEXT   NOT NULL REFERENCES webhooks (id),
    seq         BIGINT NOT NULL,
    id          TEXT   NOT NULL,
    event       TEXT   NOT NULL,
    payload     TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    attempts    BIGINT NOT NULL,
    next_at     BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    last_status BIGINT,
    last_error  TEXT,
    excerpt     TEXT,
    PRIMARY KEY (webhook, seq)
);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (webhook) WHERE state = 'pending';

CREATE INDEX events_by_kind ON events (kind, seq);
