-- Version 2: progress of running attempts, read from events.jsonl a piece at a time, so that a look at 10,000 jobs
-- reads only what is new; jobs that the scheduler will never start; and damage found by `verify`, so that `resume` can
-- mend it.

ALTER TABLE attempt ADD COLUMN events_offset INTEGER NOT NULL DEFAULT 0; -- bytes of events.jsonl read so far
ALTER TABLE attempt ADD COLUMN progress TEXT NOT NULL DEFAULT '';        -- JSON: newest step, of, values, note, at
ALTER TABLE attempt ADD COLUMN stuck TEXT NOT NULL DEFAULT '';          -- waiting for ever: 'hopeless', 'never-satisfied'
ALTER TABLE task ADD COLUMN damaged TEXT NOT NULL DEFAULT '';            -- why the result does not hold any more
