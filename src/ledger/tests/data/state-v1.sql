PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
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
INSERT INTO sweep VALUES(1,'old','/scratch/ada/runs/old','titan','0123456789abcdef','aa','bb',1790000000000,1790000001000,7);
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
INSERT INTO task VALUES(1,1,'aaaaaaaaaaaaaaaaaaaa',0,1,'prepare','command','{}',0);
INSERT INTO task VALUES(2,1,'bbbbbbbbbbbbbbbbbbbb',1,1,'fan','command','{"seed":1}',0);
INSERT INTO task VALUES(3,1,'cccccccccccccccccccc',2,1,'fan','command','{"seed":2}',0);
CREATE TABLE edge (
  task     INTEGER NOT NULL REFERENCES task(id),
  upstream INTEGER NOT NULL REFERENCES task(id),
  service  INTEGER NOT NULL,
  PRIMARY KEY (task, upstream, service)
) STRICT, WITHOUT ROWID;
INSERT INTO edge VALUES(2,1,0);
INSERT INTO edge VALUES(3,1,0);
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
INSERT INTO submission VALUES(1,1,'bc-aaaaaaaaaaaa',NULL,'/scratch/ada/runs/old/tasks/aaaaaaaaaaaaaaaaaaaa/attempt-1/job.sh','00','accepted',1790000000100,NULL,'login1','boot',100,5,'4711',NULL,'');
INSERT INTO submission VALUES(2,1,'bc-arrayarrayar',2,'/scratch/ada/runs/old/arrays/bc-arrayarrayar/job.sh','00','accepted',1790000000200,NULL,'login1','boot',100,5,'4712','titan','');
INSERT INTO submission VALUES(3,1,'bc-bbbbbbbbbbbb',NULL,'x','00','open',1790000000300,NULL,'login1','boot',100,5,NULL,NULL,'');
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
INSERT INTO attempt VALUES(1,1,1,'bc-aaaaaaaaaaaa',1,NULL,'succeeded',1790000000900,'4711',NULL,'bc-aaaaaaaaaaaa',NULL,NULL,'COMPLETED 0:0','',0,1000,0,'node7',1790000000500,1790000000800,NULL,0.29999999999999998889,0.2000000000000000111,0.0,12.5);
INSERT INTO attempt VALUES(2,2,1,'bc-bbbbbbbbbbbb',2,1,'failed',1790000000900,'4712_1','titan','bc-arrayarrayar','out-of-memory',NULL,'','',0,1000,0,'node7',1790000000500,1790000000800,10,0.29999999999999998889,0.2000000000000000111,0.0,12.5);
INSERT INTO attempt VALUES(3,3,1,'bc-cccccccccccc',2,0,'running',1790000000900,'4712_0','titan','bc-arrayarrayar',NULL,NULL,'RUNNING','',0,1000,0,'node7',1790000000500,NULL,NULL,0.0,0.0,0.0,0.0);
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
CREATE TABLE node_suspicion (
  id     INTEGER PRIMARY KEY,
  site   TEXT    NOT NULL,
  node   TEXT    NOT NULL,
  at_ms  INTEGER NOT NULL,
  weight INTEGER NOT NULL,
  why    TEXT    NOT NULL
) STRICT;
CREATE TABLE transition (
  id      INTEGER PRIMARY KEY,
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  at_ms   INTEGER NOT NULL,
  was     TEXT    NOT NULL,
  is_now  TEXT    NOT NULL,
  why     TEXT    NOT NULL
) STRICT;
INSERT INTO transition VALUES(1,1,1790000000900,'running','succeeded','');
CREATE INDEX submission_open ON submission (sweep) WHERE state = 'open';
CREATE INDEX attempt_submission ON attempt (submission);
CREATE INDEX node_suspicion_site ON node_suspicion (site, at_ms);
CREATE INDEX transition_attempt ON transition (attempt);
COMMIT;
