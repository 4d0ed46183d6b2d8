-- The ledger, version 1. Times are milliseconds since the Unix epoch, UTC. Memory is in MB (10^6 bytes).
-- One file holds many sweeps. Everything in here can be rebuilt from the run directories (`bessemer rebuild`).

CREATE TABLE sweep (
  id           INTEGER PRIMARY KEY,
  name         TEXT    NOT NULL,
  run_dir      TEXT    NOT NULL UNIQUE,   -- absolute
  site         TEXT    NOT NULL,          -- name of the site; its text is frozen in run_dir/site.yaml
  nonce        TEXT    NOT NULL,          -- the sweep's identity, part of every token (run_dir/identity)
  job_sha256   TEXT    NOT NULL,
  graph_sha256 TEXT    NOT NULL,
  created_ms   INTEGER NOT NULL,
  updated_ms   INTEGER NOT NULL,
  calls        INTEGER NOT NULL DEFAULT 0 -- scheduler commands run for it so far
) STRICT;

CREATE TABLE task (
  id        INTEGER PRIMARY KEY,
  sweep     INTEGER NOT NULL REFERENCES sweep(id),
  key       TEXT    NOT NULL,
  ord       INTEGER NOT NULL,             -- topological position in the current graph
  current   INTEGER NOT NULL,             -- 0: no longer in the job file
  phase     TEXT    NOT NULL,
  kind      TEXT    NOT NULL,
  labels    TEXT    NOT NULL,             -- JSON object
  service   INTEGER NOT NULL,
  UNIQUE (sweep, key)
) STRICT;

-- What a task needs; `service` edges ask for a live service, the others for a result.
CREATE TABLE edge (
  task     INTEGER NOT NULL REFERENCES task(id),
  upstream INTEGER NOT NULL REFERENCES task(id),
  service  INTEGER NOT NULL,
  PRIMARY KEY (task, upstream, service)
) STRICT, WITHOUT ROWID;

-- One call of the scheduler's submit command, for one attempt or an array of them. Written before the call.
CREATE TABLE submission (
  id            INTEGER PRIMARY KEY,
  sweep         INTEGER NOT NULL REFERENCES sweep(id),
  token         TEXT    NOT NULL,         -- job name
  array         INTEGER,                  -- number of elements; NULL: a single job
  script        TEXT    NOT NULL,
  script_sha256 TEXT    NOT NULL,
  state         TEXT    NOT NULL,         -- open, accepted, void, refused
  intent_ms     INTEGER NOT NULL,
  absent_ms     INTEGER,                  -- first look at a working queue that did not show it
  host          TEXT    NOT NULL,         -- who called
  boot_id       TEXT    NOT NULL,
  pid           INTEGER NOT NULL,
  pid_start     INTEGER NOT NULL,
  job_id        TEXT,
  cluster       TEXT,
  message       TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX submission_open ON submission (sweep) WHERE state = 'open';

CREATE TABLE attempt (
  id              INTEGER PRIMARY KEY,
  task            INTEGER NOT NULL REFERENCES task(id),
  n               INTEGER NOT NULL,       -- counts from 1
  token           TEXT    NOT NULL UNIQUE,
  submission      INTEGER REFERENCES submission(id),
  element         INTEGER,                -- index in the array
  state           TEXT    NOT NULL,
  since_ms        INTEGER NOT NULL,       -- in this state
  job_id          TEXT,
  cluster         TEXT,
  job_name        TEXT,                   -- the scheduler's name for it: own token, or the array's
  class           TEXT,                   -- failure class; while unconfirmed: what the scheduler hinted at
  hint_exit       INTEGER,
  reason          TEXT    NOT NULL DEFAULT '', -- the scheduler's own words, newest
  message         TEXT    NOT NULL DEFAULT '', -- for people: from the record or from us
  cancel_asked    INTEGER NOT NULL DEFAULT 0,
  memory_mb       INTEGER NOT NULL,
  next_try_ms     INTEGER NOT NULL DEFAULT 0, -- not before
  host            TEXT    NOT NULL DEFAULT '',
  started_ms      INTEGER,
  ended_ms        INTEGER,
  checkpoint_step INTEGER,
  wall_s          REAL    NOT NULL DEFAULT 0,
  cpu_s           REAL    NOT NULL DEFAULT 0,
  gpu_s           REAL    NOT NULL DEFAULT 0,
  peak_rss_mb     REAL    NOT NULL DEFAULT 0,
  UNIQUE (task, n)
) STRICT;
CREATE INDEX attempt_submission ON attempt (submission);

-- Who may write a sweep (specs: two planners on two login nodes).
CREATE TABLE lease (
  sweep       INTEGER PRIMARY KEY REFERENCES sweep(id),
  owner       TEXT    NOT NULL,           -- random: fences a planner that slept through its lease
  host        TEXT    NOT NULL,
  boot_id     TEXT    NOT NULL,
  pid         INTEGER NOT NULL,
  pid_start   INTEGER NOT NULL,
  what        TEXT    NOT NULL,           -- the command, for people
  acquired_ms INTEGER NOT NULL,
  expires_ms  INTEGER NOT NULL
) STRICT;

-- Nodes that proved unfit; a row loses its weight after 24 h.
CREATE TABLE node_suspicion (
  id     INTEGER PRIMARY KEY,
  site   TEXT    NOT NULL,
  node   TEXT    NOT NULL,
  at_ms  INTEGER NOT NULL,
  weight INTEGER NOT NULL,
  why    TEXT    NOT NULL
) STRICT;
CREATE INDEX node_suspicion_site ON node_suspicion (site, at_ms);

-- Every change of an attempt's state, for people.
CREATE TABLE transition (
  id      INTEGER PRIMARY KEY,
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  at_ms   INTEGER NOT NULL,
  was     TEXT    NOT NULL,
  is_now  TEXT    NOT NULL,
  why     TEXT    NOT NULL
) STRICT;
CREATE INDEX transition_attempt ON transition (attempt);
