//! Files of attempts that are about to be handed in: `task.json`, `job.sh`, and an array's map. Written, and durable,
//! before the intent.

use crate::engine::{Engine, Options, frozen};
use crate::error::{Error, Result};
use cluster::render::{ScriptInput, Target, index_map, script};
use cluster::site::Site;
use plan::{Graph, Task};
use record::{ContentKey, Input, Resources, TaskSpec, Token, atomic, layout};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One attempt to be prepared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit<'a> {
    pub task: &'a Task,
    pub n: u32,
    pub memory_mb: u64,
}

/// One submission's files.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub token: Token,
    /// Token of each attempt, in the order of the units.
    pub tokens: Vec<Token>,
    pub array: Option<u32>,
    pub script: PathBuf,
    pub script_sha256: String,
    /// For the scheduler's own output.
    pub sched_dir: PathBuf,
    pub resources: Resources,
    /// For people.
    pub title: String,
}

/// Everything that decides the files, besides the attempt.
pub(super) struct Desk<'a> {
    pub graph: &'a Graph,
    pub by_key: HashMap<&'a ContentKey, usize>,
    pub site: &'a Site,
    pub options: &'a Options,
    pub nonce: &'a str,
    /// Where jobs will look: the paths in the files.
    pub run_dir: &'a Path,
    /// Where the files are written; another directory in a dry run with `--out`.
    pub out_dir: &'a Path,
    /// Whether files and directories are made durable (a dry run need not).
    pub durable: bool,
}

/// Threads that write files: they wait for fsync, not for the processor.
const WRITERS: usize = 8;

/// `f` over all items, a few at a time; the results in the order of the items.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() < 2 {
        return items.iter().map(f).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let k = next.fetch_add(1, Ordering::Relaxed);
            match items.get(k) {
                Some(item) => done.push((k, f(item))),
                None => return done,
            }
        }
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS.min(items.len())).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    all.sort_by_key(|(k, _)| *k);
    all.into_iter().map(|(_, result)| result).collect()
}

/// What a desk refers to, owned: so that the engine can be changed while files are written at it.
pub(super) struct Papers {
    graph: Arc<Graph>,
    site: Site,
    options: Options,
    nonce: String,
    run_dir: PathBuf,
}

impl Engine {
    /// Everything that decides the files of this sweep's attempts.
    pub(super) fn papers(&mut self) -> Result<Papers> {
        Ok(Papers {
            graph: self.graph()?,
            site: self.site.clone(),
            options: self.options.clone(),
            nonce: self.sweep.nonce.clone(),
            run_dir: self.sweep.run_dir.clone(),
        })
    }
}

impl Papers {
    pub(super) fn desk(&self) -> Desk<'_> {
        Desk {
            by_key: self.graph.tasks.iter().enumerate().map(|(k, t)| (&t.key, k)).collect(),
            graph: &self.graph,
            site: &self.site,
            options: &self.options,
            nonce: &self.nonce,
            run_dir: &self.run_dir,
            out_dir: &self.run_dir,
            durable: true,
        }
    }
}

impl<'a> Desk<'a> {
    pub fn task(&self, key: &ContentKey) -> Option<&'a Task> {
        self.by_key.get(key).map(|&k| &self.graph.tasks[k])
    }

    pub fn token(&self, task: &Task, n: u32) -> Token {
        Token::new(self.nonce, task.work.kind().name(), &task.key, n)
    }

    /// Writes the files of one attempt, or of an array when there are several units.
    pub fn prepare(&self, units: &[Unit], array: bool) -> Result<Prepared> {
        let tokens: Vec<Token> = units.iter().map(|u| self.token(u.task, u.n)).collect();
        let first = units.first().expect("a submission has at least one attempt");
        let resources = Resources { memory_mb: first.memory_mb, ..first.task.resources.clone() };
        if array {
            let pairs: Vec<(&Unit, &Token)> = units.iter().zip(&tokens).collect();
            in_parallel(&pairs, |(u, token)| {
                self.in_attempt(u, |dir| self.put_json(&dir.join(layout::TASK), &self.spec(u, token)))
            })
            .into_iter()
            .collect::<Result<()>>()?;
            return self.prepare_array(units, tokens, resources);
        }
        let task_dir = layout::task_dir(self.run_dir, &first.task.key);
        let attempt_dir = layout::attempt_dir(&task_dir, first.n);
        let title = format!("{}: {}, attempt {}", self.graph.sweep, first.task.title(), first.n);
        let input = ScriptInput {
            token: tokens[0].clone(),
            target: Target::One(attempt_dir.clone()),
            resources: resources.clone(),
            sched_dir: attempt_dir.join(layout::SCHED),
            margin_s: first.task.margin_s,
            bessemer: self.options.bessemer.clone(),
            worker: self.options.worker.clone(),
            extra: first.task.extra.clone(),
            title: title.clone(),
        };
        let script_sha256 = self.in_attempt(first, |dir| {
            self.put_json(&dir.join(layout::TASK), &self.spec(first, &tokens[0]))?;
            self.put_script(&dir.join(layout::SCRIPT), &input, first.task)
        })?;
        Ok(Prepared {
            token: tokens[0].clone(),
            tokens,
            array: None,
            script: attempt_dir.join(layout::SCRIPT),
            script_sha256,
            sched_dir: input.sched_dir,
            resources,
            title,
        })
    }

    fn prepare_array(&self, units: &[Unit], tokens: Vec<Token>, resources: Resources) -> Result<Prepared> {
        let first = units[0];
        let all: String = tokens.iter().map(|t| t.as_str()).collect::<Vec<_>>().join("\n");
        // A function of its elements: an array that is cut in two has another name than its halves.
        let token = Token::new(self.nonce, first.task.work.kind().name(), &ContentKey(all), 0);
        let place = |root: &Path| root.join(frozen::ARRAYS).join(token.as_str());
        let (dir, out) = (place(self.run_dir), place(self.out_dir));
        let made = self.make_dir(&out.join(layout::SCHED), &first.task.phase)?;
        let dirs: Vec<PathBuf> = units
            .iter()
            .map(|u| layout::attempt_dir(&layout::task_dir(self.run_dir, &u.task.key), u.n))
            .collect();
        let map = index_map(&dirs)
            .map_err(|e| Error::Render { task: first.task.phase.clone(), why: e.to_string() })?;
        self.put(&out.join(frozen::MAP), map.as_bytes())?;
        let size = u32::try_from(units.len()).expect("an array is smaller than the scheduler's limit");
        let title = format!("{}: {} x {size}", self.graph.sweep, first.task.phase);
        let input = ScriptInput {
            token: token.clone(),
            target: Target::Array { map: dir.join(frozen::MAP), size },
            resources: resources.clone(),
            sched_dir: dir.join(layout::SCHED),
            margin_s: first.task.margin_s,
            bessemer: self.options.bessemer.clone(),
            worker: self.options.worker.clone(),
            extra: first.task.extra.clone(),
            title: title.clone(),
        };
        let script_sha256 = self.put_script(&out.join(layout::SCRIPT), &input, first.task)?;
        self.sync(&out.join(layout::SCHED), made)?;
        Ok(Prepared {
            token,
            tokens,
            array: Some(size),
            script: dir.join(layout::SCRIPT),
            script_sha256,
            sched_dir: input.sched_dir,
            resources,
            title,
        })
    }

    fn spec(&self, u: &Unit, token: &Token) -> TaskSpec {
        let task = u.task;
        let input = |r: &plan::TaskRef| Input {
            phase: r.phase.clone(),
            key: r.key.clone(),
            task_dir: layout::task_dir(self.run_dir, &r.key),
        };
        let task_dir = layout::task_dir(self.run_dir, &task.key);
        TaskSpec {
            format: record::FORMAT,
            sweep: self.graph.sweep.clone(),
            phase: task.phase.clone(),
            labels: task.labels.clone(),
            key: task.key.clone(),
            attempt: u.n,
            token: token.clone(),
            work: task.work.clone(),
            inputs: task
                .inputs
                .iter()
                .map(|(role, refs)| (role.clone(), refs.iter().map(input).collect()))
                .collect(),
            sources: task.sources.clone(),
            services: task
                .services
                .iter()
                .map(|(role, r)| (role.clone(), input(r)))
                .collect::<BTreeMap<_, _>>(),
            consumers: task.consumers.iter().map(|key| layout::task_dir(self.run_dir, key)).collect(),
            resources: Resources { memory_mb: u.memory_mb, ..task.resources.clone() },
            attempt_dir: layout::attempt_dir(&task_dir, u.n),
            task_dir,
            margin_s: task.margin_s,
        }
    }

    fn put_script(&self, path: &Path, input: &ScriptInput, task: &Task) -> Result<String> {
        let text =
            script(self.site, input).map_err(|e| Error::Render { task: task.title(), why: e.to_string() })?;
        self.put(path, text.as_bytes())?;
        Ok(record::key::sha256_hex(text.as_bytes()))
    }

    fn put_json<T: serde::Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::Io { what: format!("cannot write {}", path.display()), source: e.into() })?;
        bytes.push(b'\n');
        self.put(path, &bytes)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let written = if self.durable {
            // An attempt that is handed in again has the same files: leave them alone.
            if std::fs::read(path).is_ok_and(|known| known == bytes) {
                return Ok(());
            }
            atomic::replace(path, bytes)
        } else {
            std::fs::write(path, bytes)
        };
        written.map_err(Error::io(format!("cannot write {}", path.display())))
    }

    /// Files of one attempt: its directories, what `f` writes there, and then all names made durable at once.
    fn in_attempt<T>(&self, u: &Unit, f: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let dir = layout::attempt_dir(&layout::task_dir(self.out_dir, &u.task.key), u.n);
        let sched = dir.join(layout::SCHED);
        let made = self.make_dir(&sched, &u.task.title())?;
        let value = f(&dir)?;
        self.sync(&sched, made)?;
        Ok(value)
    }

    /// Directories exist, and durably so, before the submission: a scheduler that cannot open its output file lets the
    /// job fail without a trace (specs: F26). `true`: they were not there before.
    fn make_dir(&self, sched: &Path, task: &str) -> Result<bool> {
        if sched.is_dir() {
            return Ok(false);
        }
        std::fs::create_dir_all(sched)
            .map_err(Error::io(format!("cannot create {} for {task}", sched.display())))?;
        Ok(true)
    }

    /// Makes the names beside `sched` durable: in attempt-n, and where directories were made attempt-n in the task's
    /// directory, and that one in tasks/.
    fn sync(&self, sched: &Path, made: bool) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        let synced = sched.ancestors().take(if made { 3 } else { 1 }).try_for_each(atomic::sync_dir);
        synced.map_err(Error::io(format!("cannot make the files beside {} durable", sched.display())))
    }
}
