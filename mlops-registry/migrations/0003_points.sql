-- Points in one B-tree instead of two, in the order in which they are read. Whoever writes one holds the run's row, and
-- runs are never deleted, so no reference is looked up for each point.
CREATE TABLE run_points (
    run_id    TEXT             NOT NULL,
    name      TEXT             NOT NULL,
    step      BIGINT           NOT NULL,
    logged_at BIGINT           NOT NULL,
    is_nan    BIGINT           NOT NULL,
    value     DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run_id, name, step, logged_at, is_nan, value)
) WITHOUT ROWID;
INSERT INTO run_points (run_id, name, step, logged_at, is_nan, value)
SELECT run_id, name, step, logged_at, is_nan, value FROM run_metrics;
DROP TABLE run_metrics;
ALTER TABLE run_points RENAME TO run_metrics;
