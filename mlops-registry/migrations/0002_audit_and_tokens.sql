-- The digest of the event, by which a repeated append is found; NULL in entries that are older than this column. It is
-- an aid to look-up and outside the chain: what it finds is compared with the event itself.
ALTER TABLE audit_log ADD COLUMN event TEXT;
CREATE INDEX audit_log_by_event ON audit_log (event);

-- `hash` is that of the secret, which is nowhere.
CREATE TABLE api_tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    hash       TEXT   NOT NULL,
    speaks_as  TEXT   NOT NULL,
    grants     TEXT   NOT NULL,
    issuer     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX api_tokens_by_age ON api_tokens (created_at, id);
