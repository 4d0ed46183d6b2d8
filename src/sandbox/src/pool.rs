//! The sandbox: a fixed number of slots, and batches over them.

use crate::affinity;
use crate::cgroup::Groups;
use crate::checker;
use crate::compile_cache::CompileCache;
use crate::config::{Config, NetPolicy, SandboxError, Tier};
use crate::job::{Job, JobResult, Profile};
use crate::judge::{CANCELLED, Judge};
use crate::lang::{self, Language, Toolchain};
use crate::outside;
use crate::slot_handle::{LOOK_EVERY, Share, SlotHandle};
use crate::special::{self, SpecialSlots, Specials};
use slot::wire::{Hello, Isolation, Setup};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// When the supervisor is root, programs run under this host uid, which belongs to nobody.
const RUN_AS: u32 = 1_987_654_321;

/// A flag to stop a batch. Clone it into the thread that may want to.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Jobs that have not ended come back `unscored`; programs that run are killed.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is the same flag: a clone of it, or it was cloned from it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether somebody has.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Slots, ready to run jobs. Shared by any number of threads; dropping it ends every process in it.
pub struct Sandbox {
    config: Config,
    setup: Arc<Setup>,
    toolchains: Toolchains,
    hello: Hello,
    tier: Tier,
    /// What better isolation was tried before this one, and why there is none of it.
    refused: Vec<String>,
    /// Where slots get their control groups, or why they get none.
    groups: Result<Arc<Groups>, String>,
    /// The warm interpreter's version, or why there is none.
    warm: Result<String, String>,
    specials: Specials,
    /// Where compiled programs are kept, or why nowhere.
    cache: Result<CompileCache, String>,
    free: Mutex<Vec<Pair>>,
    returned: Condvar,
}

/// A place to run a job: its slot, and a second one where tests run that must not share a process with the program.
/// Both are started when they are first needed.
#[derive(Default)]
struct Pair {
    main: Option<SlotHandle>,
    tester: Option<SlotHandle>,
    special: SpecialSlots,
    share: Share,
}

impl Sandbox {
    /// Looks for languages, starts the first slot, and checks the tier. Further slots start when they are needed.
    ///
    /// # Errors
    /// No slot can be built here, it isolates less than `tier_min`, or there is no Python.
    pub fn start(config: Config) -> Result<Self, SandboxError> {
        if let Some(mistake) = Tier::mistyped() {
            return Err(SandboxError::Setting(mistake));
        }
        let toolchains: Toolchains = lang::table().iter().map(|l| (l.find)(&config)).collect();
        let python = lang::by_name("python").map(|i| &toolchains[i]);
        if let Some(Err(e)) = python {
            return Err(SandboxError::Language(e.clone()));
        }
        let cpus = cpus_to_pin(&config);
        let cpu = |i: usize| cpus.get(i % cpus.len().max(1)).copied();
        let groups = match config.tier_max {
            Tier::A => Groups::find(&config.cgroup).map(Arc::new),
            less => Err(format!("no more than tier {less} is asked for")),
        };
        let share =
            |i: usize| Share { cpu: cpu(i), beside: cpu(i + 1), groups: groups.as_ref().ok().cloned() };
        let Built { toolchains, bare, setup, first, warm, refused } = build(&config, &toolchains, &share(0))?;
        let hello = first.hello.clone();
        let (tier, why) = tier_of(&hello, config.net, groups.as_ref().err());
        if tier < config.tier_min {
            return Err(SandboxError::Tier { got: tier, want: config.tier_min, why });
        }
        let mut free = vec![Pair { main: Some(first), share: share(0), ..Pair::default() }];
        free.extend((1..config.slots.max(1)).map(|i| Pair { share: share(i), ..Pair::default() }));
        let specials = Specials::new(&config, &bare);
        let cache = match &config.compile_cache {
            Some(c) => CompileCache::open(&c.dir, c.max_mb << 20),
            None => Err("switched off by the caller, or there is no home to keep programs in".into()),
        };
        free.reverse(); // the slot that stands is taken first
        Ok(Self {
            config,
            setup,
            toolchains,
            hello,
            tier,
            refused,
            groups,
            warm,
            specials,
            cache,
            free: Mutex::new(free),
            returned: Condvar::new(),
        })
    }

    /// Starts every slot that is free and not started yet, so that no job has to wait for one; jobs that come meanwhile get
    /// those that are ready. Slots of the profiles `numpy` and `pytest` still start when they are first needed.
    ///
    /// # Errors
    /// A slot cannot be built, or isolates less than the first one.
    pub fn warm_up(&self, cancel: &Cancel) -> Result<(), SandboxError> {
        let pairs = std::mem::take(&mut *lock(&self.free));
        // In the order in which they lay there: each goes back whatever happens to the ones behind it.
        let places: Vec<_> = pairs.into_iter().map(|pair| Place { sandbox: self, pair }).collect();
        for mut place in places {
            let Pair { main, tester, share, .. } = &mut place.pair;
            for (slot, share) in [(main, share.clone()), (tester, share.of_tests())] {
                if slot.is_some() {
                    continue;
                }
                if cancel.is_cancelled() {
                    return Ok(());
                }
                *slot = Some(self.another(&share)?);
            }
        }
        Ok(())
    }

    /// One more slot, which must isolate as the first one does.
    fn another(&self, share: &Share) -> Result<SlotHandle, SandboxError> {
        let slot = SlotHandle::start(&self.setup, self.config.runs_per_slot, share)?;
        if isolates_alike(&slot.hello, &self.hello) {
            Ok(slot)
        } else {
            Err(SandboxError::Slot("a new slot does not isolate as the first one does".into()))
        }
    }

    /// How well programs are isolated here.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Programs that run at the same time.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.config.slots.max(1)
    }

    /// The version of the warm interpreter that Python runs are forks of; or why each has to start its own.
    ///
    /// # Errors
    /// Why there is none.
    pub fn warm_python(&self) -> Result<&str, &str> {
        self.warm.as_deref().map_err(String::as_str)
    }

    /// The directory in which compiled programs are kept; or why they are not.
    ///
    /// # Errors
    /// Why not.
    pub fn compile_cache(&self) -> Result<&std::path::Path, &str> {
        self.cache.as_ref().map(CompileCache::dir).map_err(String::as_str)
    }

    /// The profiles that need an interpreter of their own, and why one is not to be had here.
    pub fn profiles(&self) -> [(&'static str, Result<(), &str>); 2] {
        self.specials.names()
    }

    /// Which control groups count and limit what slots use; or why none does.
    ///
    /// # Errors
    /// Why not.
    pub fn control_groups(&self) -> Result<String, &str> {
        self.groups.as_ref().map(|g| g.describe()).map_err(String::as_str)
    }

    /// Better isolation that was tried and cannot be had here, with the reason of each.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// What the first slot said of itself.
    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Languages that can be run here, with what runs them; and those that cannot, with the reason.
    #[must_use]
    pub fn languages(&self) -> Vec<(&'static str, Result<String, String>)> {
        let found =
            self.toolchains.iter().map(|t| t.as_ref().map(|t| t.version.clone()).map_err(Clone::clone));
        lang::names().into_iter().zip(found).collect()
    }

    fn tools(&self, language: &str) -> Result<Tools<'_>, String> {
        let index = lang::by_name(language)
            .ok_or_else(|| format!("language {language:?} is not one of {}", lang::names().join(", ")))?;
        let toolchain = self.toolchains[index].as_ref().map_err(Clone::clone)?;
        Ok((lang::table()[index], toolchain))
    }

    /// Whether the job can be run here at all, and what runs it and its checker.
    fn fitting(&self, job: &Job) -> Result<(Tools<'_>, Option<Tools<'_>>), String> {
        job.check()?;
        let bytes: usize = job.files.iter().map(|f| f.data.len()).sum();
        if bytes as u64 > self.config.scratch_mb << 20 {
            return Err(format!("files: {bytes} bytes; scratch space is {} MiB", self.config.scratch_mb));
        }
        let checker = checker::of(job).map(|c| self.tools(&c.language)).transpose();
        Ok((self.tools(&job.language)?, checker.map_err(|e| format!("comparator: checker: {e}"))?))
    }

    /// Runs one job on the next free slot, in this thread.
    #[must_use]
    pub fn run(&self, job: &Job) -> JobResult {
        self.run_until(job, &Cancel::default())
    }

    /// As [`Sandbox::run`]; a job that has not ended when `cancel` is set comes back `unscored`, at most a moment later.
    #[must_use]
    pub fn run_until(&self, job: &Job, cancel: &Cancel) -> JobResult {
        let ((language, toolchain), checker) = match self.fitting(job) {
            Ok(tools) => tools,
            Err(e) => return JobResult::unscored(job, self.tier, e),
        };
        let Some(pair) = self.take(cancel) else {
            return JobResult::unscored(job, self.tier, CANCELLED.into());
        };
        let mut place = Place { sandbox: self, pair };
        let pair = &mut place.pair;
        // We wait for the slot and it for us, in turns: waking somebody on another CPU is what takes longest.
        let _kept = pair.share.cpu.map(affinity::Kept::to);
        let needs_tester = job.needs_tester() && job.profile != Profile::Pytest;
        let (share, of_tests) = (&pair.share, pair.share.of_tests());
        for (slot, share, needed) in
            [(&mut pair.main, share, true), (&mut pair.tester, &of_tests, needs_tester)]
        {
            if needed && slot.is_none() {
                match self.another(share) {
                    Ok(new) => *slot = Some(new),
                    Err(e) => return JobResult::unscored(job, self.tier, e.to_string()),
                }
            }
        }
        let special = &mut pair.special;
        if let Err(e) = self.specials.prepare(job, special, &self.hello, self.config.runs_per_slot, share) {
            return JobResult::unscored(job, self.tier, e);
        }
        let (main, tester) = match job.profile {
            Profile::Multi | Profile::Solo => (&mut pair.main, &mut pair.tester),
            Profile::Numpy => (&mut special.numpy, &mut special.numpy_tester),
            Profile::Pytest => (&mut pair.main, &mut special.pytest),
        };
        let Some(slot) = main.as_mut() else {
            return JobResult::unscored(job, self.tier, "no slot".into());
        };
        let mut tester = tester.as_mut();
        for slot in [Some(&mut *slot), tester.as_deref_mut()].into_iter().flatten() {
            slot.cancel = cancel.clone();
        }
        let (tier, cache) = (self.tier, self.cache.as_ref().ok());
        Judge { slot, tester, tier, language, toolchain, checker, cache, cancel }.job(job)
    }

    /// Runs jobs in parallel, one thread per slot; results come in the order of the jobs.
    #[must_use]
    pub fn run_batch(&self, jobs: &[Job]) -> Vec<JobResult> {
        self.run_batch_until(jobs, &Cancel::default())
    }

    /// As [`Sandbox::run_batch`]; jobs that have not ended when `cancel` is set come back `unscored`.
    #[must_use]
    pub fn run_batch_until(&self, jobs: &[Job], cancel: &Cancel) -> Vec<JobResult> {
        let results: Vec<_> = jobs.iter().map(|_| Mutex::new(None)).collect();
        self.run_each(jobs.iter(), cancel, |i, result| *lock(&results[i]) = Some(result));
        let taken = results.into_iter().map(|m| m.into_inner().unwrap_or_else(PoisonError::into_inner));
        taken
            .zip(jobs)
            .map(|(r, job)| {
                r.unwrap_or_else(|| JobResult::unscored(job, self.tier, "the job was lost".into()))
            })
            .collect()
    }

    /// Runs jobs as they come: the iterator is asked for the next one only when a slot is free for it, and `done` gets
    /// each result, with the job's place, as soon as it is there, from several threads.
    pub fn run_each<J: std::borrow::Borrow<Job>>(
        &self,
        jobs: impl Iterator<Item = J> + Send,
        cancel: &Cancel,
        done: impl Fn(usize, JobResult) + Sync,
    ) {
        let most = jobs.size_hint().1.unwrap_or(usize::MAX).min(self.config.slots.max(1));
        let jobs = Mutex::new(jobs.enumerate());
        let work = || {
            loop {
                let Some((i, job)) = lock(&jobs).next() else { return };
                let job = job.borrow();
                let result = if cancel.is_cancelled() {
                    JobResult::unscored(job, self.tier, CANCELLED.into())
                } else {
                    self.run_until(job, cancel)
                };
                done(i, result);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..most {
                scope.spawn(work);
            }
            work();
        });
    }

    /// The next free place; `None` when the batch is cancelled before there is one.
    fn take(&self, cancel: &Cancel) -> Option<Pair> {
        let mut free = lock(&self.free);
        loop {
            if let Some(pair) = free.pop() {
                return Some(pair);
            }
            if cancel.is_cancelled() {
                return None;
            }
            free = self.returned.wait_timeout(free, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A language and what runs it here.
type Tools<'a> = (&'static Language, &'a Toolchain);

/// The CPUs of this process, in order, when slots are to keep to one each: where there are slots for all of them. A batch
/// system's set is honoured, since it is this process' own.
fn cpus_to_pin(config: &Config) -> Vec<usize> {
    let cpus = affinity::cpus();
    if config.pin && config.slots >= cpus.len() { cpus } else { Vec::new() }
}

/// Gives the slot back whatever happens in between.
struct Place<'a> {
    sandbox: &'a Sandbox,
    pair: Pair,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.sandbox.free).push(std::mem::take(&mut self.pair));
        self.sandbox.returned.notify_one();
    }
}

/// A lock that another thread's panic does not take from us: what it guards is always whole.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What runs each language, in the order of the table; or why nothing does.
type Toolchains = Vec<Result<Toolchain, String>>;

fn bare_setup(config: &Config, toolchains: &[Result<Toolchain, String>], isolation: Isolation) -> Setup {
    let (mut binds, links) = lang::base_binds();
    for bind in toolchains.iter().flatten().flat_map(|t| &t.binds) {
        if !binds.contains(bind) {
            binds.push(bind.clone());
        }
    }
    let text = |path: &str, data: &str| (path.to_owned(), data.as_bytes().to_vec());
    Setup {
        supervisor: std::process::id(),
        run_as: RUN_AS,
        // One mebibyte more, so that a program's own files and directories have room beside those of the job.
        scratch_bytes: (config.scratch_mb + 1) << 20,
        scratch_files: config.scratch_files,
        isolation,
        directory: String::new(),
        binds,
        links,
        files: vec![
            text("/etc/passwd", "user:x:1000:1000:user:/tmp:/bin/sh\n"),
            text("/etc/group", "user:x:1000:\n"),
            text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
            text("/etc/hosts", "127.0.0.1 localhost\n"),
        ],
        want_net_namespace: config.net == NetPolicy::IfPossible && config.tier_max >= Tier::B,
        zygote_argv: Vec::new(),
        zygote_env: Vec::new(),
    }
}

/// A sandbox with its first slot.
struct Built {
    toolchains: Toolchains,
    /// How slots are built, without an interpreter.
    bare: Setup,
    setup: Arc<Setup>,
    first: SlotHandle,
    /// The warm interpreter's version or why there is none.
    warm: Result<String, String>,
    /// See [`Sandbox::refused`].
    refused: Vec<String>,
}

/// The strongest slot that can be had, of what the policy allows.
fn build(config: &Config, toolchains: &Toolchains, share: &Share) -> Result<Built, SandboxError> {
    let mut refused = Vec::new();
    for isolation in [Isolation::Namespaces, Isolation::Landlock, Isolation::Filter] {
        let (most, name) = match isolation {
            Isolation::Namespaces => (Tier::A, "with namespaces"),
            Isolation::Landlock => (Tier::C, "by Landlock (tier C)"),
            Isolation::Filter => (Tier::D, "by the filter alone (tier D)"),
        };
        let least = if isolation == Isolation::Namespaces { Tier::BMinus } else { most };
        if most < config.tier_min || least > config.tier_max {
            continue;
        }
        match first_slot(config, toolchains, isolation, share) {
            Ok(built) => return Ok(Built { refused, ..built }),
            Err(SandboxError::Slot(e)) => refused.push(format!("{name}: {e}")),
            Err(e) => return Err(e),
        }
    }
    if refused.is_empty() {
        refused.push(format!("tier_min {} is above tier_max {}", config.tier_min, config.tier_max));
    }
    Err(SandboxError::Slot(refused.join("; ")))
}

/// The first slot, with a warm interpreter if it can be had: without one Python runs are slower, not less safe. Outside of
/// namespaces there is no Python without it.
fn first_slot(
    config: &Config,
    toolchains: &Toolchains,
    isolation: Isolation,
    share: &Share,
) -> Result<Built, SandboxError> {
    let mut toolchains = toolchains.clone();
    if isolation != Isolation::Namespaces {
        for (language, toolchain) in lang::table().iter().zip(&mut toolchains) {
            if let Ok(found) = toolchain {
                *toolchain = outside::toolchain(language.name, found, isolation);
            }
        }
    }
    let mut bare = bare_setup(config, &toolchains, isolation);
    if isolation != Isolation::Namespaces {
        let dir = outside::directory(config).map_err(SandboxError::Slot)?;
        bare.directory = dir.to_string_lossy().into_owned();
    }
    let python = lang::by_name("python").and_then(|i| toolchains[i].as_ref().ok());
    let warm = match python {
        Some(_) if !config.warm_python => Err("switched off by the caller".to_owned()),
        None => Err("there is no Python".to_owned()),
        Some(t) => {
            let setup = Arc::new(special::warm(&bare, t, &[]));
            match SlotHandle::start(&setup, config.runs_per_slot, share) {
                Ok(first) => {
                    let warm = Ok(t.version.clone());
                    return Ok(Built { toolchains, bare, setup, first, warm, refused: Vec::new() });
                }
                Err(SandboxError::Slot(e)) => Err(e),
                Err(e) => Err(e.to_string()),
            }
        }
    };
    if let (false, Err(why)) = (isolation == Isolation::Namespaces, &warm) {
        return Err(SandboxError::Slot(format!("Python outside of namespaces has to be warm: {why}")));
    }
    let setup = Arc::new(bare.clone());
    let first = SlotHandle::start(&setup, config.runs_per_slot, share)?;
    Ok(Built { toolchains, bare, setup, first, warm, refused: Vec::new() })
}

/// Whether two slots promise the same. Each has a directory of its own where it has no root of its own.
pub(crate) fn isolates_alike(a: &Hello, b: &Hello) -> bool {
    Hello { root: String::new(), ..a.clone() } == Hello { root: String::new(), ..b.clone() }
}

fn tier_of(hello: &Hello, net: NetPolicy, no_group: Option<&String>) -> (Tier, String) {
    match hello.isolation {
        Isolation::Namespaces => {}
        Isolation::Landlock => return (Tier::C, "there are no user namespaces here".into()),
        Isolation::Filter => {
            return (Tier::D, "there are neither user namespaces nor Landlock here".into());
        }
    }
    match (hello.net_namespace, net, no_group) {
        (true, _, None) => (Tier::A, String::new()),
        (true, _, Some(why)) => (Tier::B, why.clone()),
        (false, NetPolicy::Never, _) => {
            (Tier::BMinus, "network namespaces are switched off by the caller".into())
        }
        (false, NetPolicy::IfPossible, _) => (
            Tier::BMinus,
            "the kernel gives no network namespace; look at `sysctl user.max_net_namespaces`".into(),
        ),
    }
}
