//! Random interleavings of commands, scheduler events, faults and crashes, over the real engine and a real state file.
//! A crash is a panic in a scheduler call, before or after its effect: what the process had not committed is gone.

mod common;

use cluster::backend::{Backend, JobRef, JobState, Limits, Query, Snapshot, Submission, Submitted};
use common::{Fake, Fault, Lab, graph, task};
use ledger::{Engine, Filter, ResumeOptions, Who};
use proptest::prelude::*;
use record::{FailureClass, Status, TaskSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The scheduler, with a fuse: the n-th call from now kills the planner, before (even) or after (odd) its effect.
struct Fused {
    fake: Arc<Fake>,
    fuse: AtomicU32,
}

const NEVER: u32 = u32::MAX;

impl Fused {
    fn call<T>(&self, f: impl FnOnce() -> T) -> T {
        let left = self.fuse.load(Ordering::Relaxed);
        if left == NEVER {
            return f();
        }
        assert!(left != 0, "crash before the call");
        let value = f();
        assert!(left != 1, "crash after the call");
        self.fuse.store(left - 2, Ordering::Relaxed);
        value
    }
}

impl Backend for Fused {
    fn submit(&self, s: &Submission) -> Submitted {
        self.call(|| self.fake.submit(s))
    }
    fn query(&self, q: &Query) -> Result<Snapshot, String> {
        self.call(|| self.fake.query(q))
    }
    fn cancel(&self, jobs: &[JobRef]) -> Result<(), String> {
        self.call(|| self.fake.cancel(jobs))
    }
    fn uncertain_grace_s(&self) -> u64 {
        180
    }
    fn calls(&self) -> u64 {
        self.fake.calls()
    }
    fn limits(&self) -> Limits {
        self.fake.limits()
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// A command, and the fuse it runs with.
    Submit(Option<u8>),
    Refresh(Option<u8>),
    Resume(Option<u8>),
    Cancel(Option<u8>),
    Rebuild,
    /// The k-th live job (modulo) does something.
    Start(u8),
    Succeed(u8),
    Fail(u8),
    Checkpoint(u8),
    /// Killed without a record.
    Vanish(u8),
    /// The queue forgets what is over.
    Purge,
    QueueDown(bool),
    /// From now on cancellations take effect late (or at once again); those under way land.
    SlowCancel(bool),
    Fault(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let fuse = || prop::option::weighted(0.5, 0u8..8);
    prop_oneof![
        4 => fuse().prop_map(Op::Submit),
        2 => fuse().prop_map(Op::Refresh),
        3 => fuse().prop_map(Op::Resume),
        1 => fuse().prop_map(Op::Cancel),
        1 => Just(Op::Rebuild),
        3 => any::<u8>().prop_map(Op::Start),
        3 => any::<u8>().prop_map(Op::Succeed),
        2 => any::<u8>().prop_map(Op::Fail),
        1 => any::<u8>().prop_map(Op::Checkpoint),
        1 => any::<u8>().prop_map(Op::Vanish),
        1 => Just(Op::Purge),
        1 => any::<bool>().prop_map(Op::QueueDown),
        2 => any::<bool>().prop_map(Op::SlowCancel),
        2 => (0u8..5).prop_map(Op::Fault),
    ]
}

struct World {
    lab: Lab,
}

impl World {
    fn new(max_array: u32) -> Self {
        let a = task("a", "a", &[]);
        let b = task("b", "b", &[&a]);
        let fan: Vec<_> = (0..3).map(|i| task("fan", &format!("f{i}"), &[&a])).collect();
        let last = task("last", "last", &[&b, &fan[1]]);
        let mut tasks = vec![a, b];
        tasks.extend(fan);
        tasks.push(last);
        let lab = Lab::new(graph(tasks));
        lab.fake.with(|w| w.max_array = max_array);
        drop(lab.create());
        Self { lab }
    }

    /// A planner process: opens the state, runs a command, may be killed on the way.
    fn planner(&self, fuse: Option<u8>, command: impl FnOnce(&mut Engine)) {
        let backend = Arc::new(Fused {
            fake: self.lab.fake.clone(),
            fuse: AtomicU32::new(fuse.map_or(NEVER, u32::from)),
        });
        let db = self.lab.db();
        let sweep = db.find_sweep("s").unwrap();
        let mut engine = Engine::open(db, sweep, common::site(), backend, self.lab.options());
        let crashed = catch_unwind(AssertUnwindSafe(|| command(&mut engine))).is_err();
        drop(engine);
        if crashed {
            // The lease of a dead process is free; this "process" shares our id, so the test has to say so.
            let conn = rusqlite::Connection::open(self.lab.db().path()).unwrap();
            conn.execute("DELETE FROM lease", []).unwrap();
        }
    }

    /// Jobs the scheduler could act on: live, and with their dependencies fulfilled.
    fn runnable(&self) -> Vec<String> {
        self.lab.fake.with(|w| {
            let state = |id: &String| w.jobs.iter().find(|j| j.id == *id).map(|j| j.state);
            w.jobs
                .iter()
                .filter(|j| matches!(j.state, JobState::Waiting | JobState::Running))
                .filter(|j| j.after_ok.iter().all(|up| state(up) == Some(JobState::Completed)))
                .map(|j| j.id.clone())
                .collect()
        })
    }

    /// A dependent of something that failed waits for ever.
    fn settle_dependencies(&self) {
        self.lab.fake.with(|w| {
            let over: BTreeSet<String> = w
                .jobs
                .iter()
                .filter(|j| !j.state.is_live() && j.state != JobState::Completed)
                .map(|j| j.id.clone())
                .collect();
            for j in w.jobs.iter_mut().filter(|j| j.state == JobState::Waiting) {
                if j.after_ok.iter().any(|up| over.contains(up)) {
                    j.state = JobState::NeverSatisfied;
                    j.raw = "PENDING DependencyNeverSatisfied".into();
                }
            }
        });
    }

    fn on_job(&self, pick: u8, f: impl FnOnce(&Fake, &str)) {
        let ids = self.runnable();
        if !ids.is_empty() {
            f(&self.lab.fake, &ids[usize::from(pick) % ids.len()]);
        }
        self.settle_dependencies();
    }

    fn apply(&self, op: &Op) {
        let fake = &self.lab.fake;
        // Errors are answers (the queue is down); only panics are crashes.
        match op {
            Op::Submit(fuse) => self.planner(*fuse, |e| drop(e.submit())),
            Op::Refresh(fuse) => self.planner(*fuse, |e| drop(e.refresh(&Filter::all()))),
            Op::Resume(fuse) => self.planner(*fuse, |e| {
                drop(e.resume(&ResumeOptions { filter: Filter::all(), who: Who::Person }));
            }),
            Op::Cancel(fuse) => self.planner(*fuse, |e| drop(e.cancel(&Filter::all()))),
            Op::Rebuild => {
                std::fs::remove_dir_all(self.lab.state_dir()).unwrap();
                let (engine, _) = Engine::rebuild(
                    self.lab.db(),
                    &self.lab.run_dir(),
                    common::site(),
                    fake.clone(),
                    self.lab.options(),
                )
                .unwrap();
                drop(engine);
            }
            Op::Start(k) => self.on_job(*k, |f, id| f.start(id)),
            Op::Succeed(k) => self.on_job(*k, |f, id| {
                f.start(id);
                f.leave_record(id, Status::Ok, None, None);
                f.set(id, JobState::Completed, "COMPLETED");
            }),
            Op::Fail(k) => self.on_job(*k, |f, id| f.fail(id, FailureClass::Error)),
            Op::Checkpoint(k) => self.on_job(*k, |f, id| {
                f.start(id);
                f.leave_record(id, Status::Checkpointed, None, Some(u64::from(*k)));
                f.set(id, JobState::Failed, "FAILED 85:0");
            }),
            Op::Vanish(k) => self.on_job(*k, |f, id| {
                f.start(id);
                f.set(id, JobState::Failed, "FAILED 0:9");
            }),
            Op::Purge => fake.with(|w| {
                w.jobs.iter_mut().filter(|j| !j.state.is_live()).for_each(|j| j.hidden = true);
            }),
            Op::QueueDown(down) => fake.with(|w| w.queue_down = *down),
            Op::SlowCancel(slow) => {
                fake.cancellations_land();
                fake.with(|w| w.slow_cancel = *slow);
                self.settle_dependencies();
            }
            Op::Fault(n) => fake.fault(match n {
                0 => Fault::AcceptedUnheard,
                1 => Fault::LostUnheard,
                2 => Fault::Refuse("no"),
                3 => Fault::Limit,
                _ => Fault::Unavailable,
            }),
        }
    }

    /// Live jobs of each task.
    fn live_by_task(&self) -> BTreeMap<String, Vec<String>> {
        let mut live: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in self.lab.fake.live() {
            live.entry(self.lab.fake.spec(&id).key.0).or_default().push(id);
        }
        live
    }

    /// Records that say ok, by task.
    fn successes(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for t in &self.lab.graph.tasks {
            let dir = record::layout::task_dir(&self.lab.run_dir(), &t.key);
            for n in record::layout::attempts(&dir).unwrap() {
                if ok_record(&record::layout::attempt_dir(&dir, n)) {
                    *found.entry(t.key.0.clone()).or_default() += 1;
                }
            }
        }
        found
    }

    fn check(&self, after: &Op) {
        for (key, ids) in self.live_by_task() {
            assert!(ids.len() < 2, "two live submissions {ids:?} of task {key} after {after:?}");
        }
        for (key, n) in self.successes() {
            assert!(n < 2, "task {key} ran to success {n} times, last after {after:?}");
        }
        let engine = self.lab.open();
        for t in engine.view(&Filter::all()).unwrap().tasks {
            if t.state == ledger::TaskState::Succeeded {
                let dir = record::layout::task_dir(&self.lab.run_dir(), &t.key);
                let result = record::verify::result(&dir, &t.key, record::verify::Depth::Hash);
                assert!(result.is_ok(), "{} counts as succeeded without a result: {result:?}", t.title);
            }
        }
    }

    /// From here on nothing goes wrong: the sweep must end, with every job known.
    fn end_well(&self) {
        let fake = &self.lab.fake;
        fake.with(|w| {
            w.queue_down = false;
            w.slow_cancel = false;
            w.faults.clear();
        });
        fake.cancellations_land();
        self.settle_dependencies();
        for _ in 0..12 {
            self.planner(None, |e| {
                e.resume(&ResumeOptions { filter: Filter::all(), who: Who::Person }).unwrap();
            });
            let view = self.lab.open().refresh(&Filter::all()).unwrap();
            let known: BTreeSet<String> = view
                .tasks
                .iter()
                .filter(|t| {
                    t.state == ledger::TaskState::Hopeless || !t.state.is_done() && !t.state.needs_help()
                })
                .filter_map(|t| t.job_id.clone())
                .collect();
            for id in fake.live() {
                assert!(
                    known.contains(&id),
                    "job {id} is in the queue and the ledger does not know it: {view:#?}"
                );
            }
            if view.is_done() {
                assert!(fake.live().is_empty());
                return;
            }
            let op = Op::Succeed(0);
            while !self.runnable().is_empty() {
                self.apply(&op);
                self.check(&op);
            }
        }
        panic!("the sweep does not end: {:?}", self.lab.states());
    }
}

/// Crashes are part of the test; every other panic is told as usual.
fn quiet_crashes() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().downcast_ref::<&str>().is_some_and(|text| text.starts_with("crash ")) {
                usual(info);
            }
        }));
    });
}

fn ok_record(dir: &Path) -> bool {
    TaskSpec::read(&dir.join("task.json")).is_ok()
        && record::atomic::read_json::<record::AttemptRecord>(&dir.join("record.json"))
            .unwrap()
            .is_some_and(|r| r.status == Status::Ok)
}

/// Found by the test below.
#[test]
fn dependents_of_a_failure_that_a_blind_rebuild_forgot_are_freed_all_the_same() {
    quiet_crashes();
    let world = World::new(1);
    use Op::{Fail, QueueDown, Rebuild, Resume, Submit};
    for op in [Submit(None), QueueDown(true), Rebuild, Fail(0), Resume(None), Rebuild] {
        world.apply(&op);
        world.check(&op);
    }
    world.end_well();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("BESSEMER_INTERLEAVINGS").ok().and_then(|n| n.parse().ok()).unwrap_or(48),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_interleaving_with_crashes_doubles_loses_or_forgets_a_task(
        ops in prop::collection::vec(op(), 1..40),
        max_array in prop::sample::select(vec![1u32, 2, 10]),
    ) {
        quiet_crashes();
        let world = World::new(max_array);
        for op in &ops {
            world.apply(op);
            world.check(op);
        }
        world.end_well();
    }
}
