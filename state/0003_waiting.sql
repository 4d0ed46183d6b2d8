-- Version 3: since when a job has been waiting for nodes or a partition that are not there.
ALTER TABLE attempt ADD COLUMN stuck_since_ms INTEGER NOT NULL DEFAULT 0;
