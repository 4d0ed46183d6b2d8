//! Phases times points -> tasks. Depth first over (phase, point), each visited once; equal content makes one task.

use crate::body::{Body, Decoded, Terms, body_of, decode, terms};
use crate::diagnostic::Report;
use crate::graph::{Point, Task, TaskRef, plain};
use crate::job::Job;
use crate::outside::{Found, Outside};
use crate::upstream::{External, Need};
use record::{ContentKey, Source};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// Points of all phases together; more is a slip in the matrix, not a sweep.
pub(crate) const MAX_POINTS: u64 = 2_000_000;

const UNSEEN: u32 = u32::MAX;
const OPEN: u32 = u32::MAX - 1;
const FAILED: u32 = u32::MAX - 2;

/// One phase at one point. `id` is the mixed-radix number of the point over the phase's relevant axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub phase: usize,
    pub id: u64,
}

struct Frame {
    me: Instance,
    digits: Vec<u32>,
    body: Rc<Body>,
    needs: Vec<Need>,
    externals: Vec<External>,
    next: usize,
}

struct PhaseState {
    /// Sizes of the relevant axes.
    sizes: Vec<u64>,
    /// Per point: task number or one of the marks.
    state: Vec<u32>,
    /// Per point: the relevant axes that decide its content, as bits.
    uses: Vec<u64>,
    /// Per set of variants that apply.
    bodies: HashMap<Vec<u32>, Rc<Body>>,
    /// Points of the whole matrix per point of the relevant axes.
    weight: u64,
}

/// What is only needed while expanding.
struct Draft {
    phase: usize,
    digits: Vec<u32>,
    /// Axes that decided the first point's content, as bits.
    uses: u64,
    /// Relevant axes that matter and have one value so far, as bits.
    single: u64,
}

pub(crate) struct Expander<'a> {
    pub job: &'a Job,
    pub report: &'a mut Report,
    pub outside: &'a dyn Outside,
    /// Each reference is looked up once.
    pub found: HashMap<String, Option<Found>>,
    states: Vec<PhaseState>,
    tasks: Vec<Task>,
    drafts: Vec<Draft>,
    by_key: HashMap<ContentKey, u32>,
    points_seen: HashSet<(u32, usize, u64)>,
    decoded: HashMap<(usize, Vec<u32>), Option<Rc<Decoded>>>,
    terms: HashMap<(usize, Vec<u32>), Option<Rc<Terms>>>,
    bodies: usize,
}

/// Expands the phases for which `wanted` holds and all they need, in topological order; also `config.json` of the models
/// from outside, by identity.
pub(crate) fn expand(
    job: &Job,
    wanted: &dyn Fn(&str) -> bool,
    outside: &dyn Outside,
    report: &mut Report,
) -> (Vec<Task>, HashMap<String, Value>) {
    let mut total: u64 = 0;
    let mut states = Vec::new();
    for phase in &job.phases {
        let sizes: Vec<u64> = phase.relevant.iter().map(|&a| job.axes[a].values.len() as u64).collect();
        let points = sizes.iter().try_fold(1u64, |n, &s| n.checked_mul(s)).unwrap_or(u64::MAX);
        total = total.saturating_add(points);
        if total > MAX_POINTS {
            let message = format!("the matrix has too many points (phase `{}`: {points})", phase.name);
            report.error(phase.at, message, format!("all phases together may have {MAX_POINTS}"));
            return (Vec::new(), HashMap::new());
        }
        let count = usize::try_from(points).unwrap_or(usize::MAX);
        let others = phase.axes.iter().filter(|a| !phase.relevant.contains(a));
        states.push(PhaseState {
            sizes,
            state: vec![UNSEEN; count],
            uses: vec![0; count],
            bodies: HashMap::new(),
            weight: others.fold(1u64, |n, &a| n.saturating_mul(job.axes[a].values.len() as u64)),
        });
    }
    let mut expander = Expander {
        job,
        report,
        outside,
        found: HashMap::new(),
        states,
        tasks: Vec::new(),
        drafts: Vec::new(),
        by_key: HashMap::new(),
        points_seen: HashSet::new(),
        decoded: HashMap::new(),
        terms: HashMap::new(),
        bodies: 0,
    };
    for (p, phase) in job.phases.iter().enumerate() {
        // a service is started for whoever needs it, at the points where it is needed
        if phase.kind.is_service() || !wanted(&phase.name) {
            continue;
        }
        for id in 0..expander.states[p].state.len() as u64 {
            expander.visit(Instance { phase: p, id });
            if expander.report.is_full() {
                return (Vec::new(), HashMap::new());
            }
        }
    }
    let found = std::mem::take(&mut expander.found);
    let configs =
        found.into_values().flatten().filter_map(|f| Some((f.source.identity, f.config?))).collect();
    (expander.finish(), configs)
}

impl Expander<'_> {
    fn visit(&mut self, root: Instance) {
        if self.mark(root) != UNSEEN {
            return;
        }
        let mut stack: Vec<Frame> = Vec::new();
        match self.open(root) {
            Some(frame) => stack.push(frame),
            None => return,
        }
        while let Some(frame) = stack.last_mut() {
            let Some(need) = frame.needs.get(frame.next) else {
                if let Some(frame) = stack.pop() {
                    self.close(&frame);
                }
                continue;
            };
            let (of, at) = (need.of, need.at);
            frame.next += 1;
            match self.mark(of) {
                UNSEEN => stack.extend(self.open(of)),
                OPEN => {
                    let path = self.cycle(&stack, of);
                    let help = "a task cannot need its own outcome: change one of these inputs".to_owned();
                    self.report.error(at, format!("cycle: {path}"), help);
                    // breaks the circle so that the walk goes on
                    if let Some(top) = stack.last_mut() {
                        top.needs.clear();
                        top.next = 0;
                        let me = top.me;
                        self.set_mark(me, FAILED);
                        stack.pop();
                    }
                }
                _ => {}
            }
        }
    }

    fn mark(&self, i: Instance) -> u32 {
        usize::try_from(i.id)
            .ok()
            .and_then(|id| self.states[i.phase].state.get(id))
            .copied()
            .unwrap_or(FAILED)
    }

    fn set_mark(&mut self, i: Instance, mark: u32) {
        if let Some(slot) = usize::try_from(i.id).ok().and_then(|id| self.states[i.phase].state.get_mut(id)) {
            *slot = mark;
        }
    }

    fn uses(&self, i: Instance) -> u64 {
        usize::try_from(i.id).ok().and_then(|id| self.states[i.phase].uses.get(id)).copied().unwrap_or(0)
    }

    /// The places of the point's values, one per relevant axis; the last axis changes fastest.
    fn digits(&self, i: Instance) -> Vec<u32> {
        let sizes = &self.states[i.phase].sizes;
        let mut digits = vec![0; sizes.len()];
        let mut rest = i.id;
        for (digit, size) in digits.iter_mut().zip(sizes).rev() {
            *digit = u32::try_from(rest % size).unwrap_or(0);
            rest /= size;
        }
        digits
    }

    pub fn id(&self, phase: usize, digits: &[u32]) -> u64 {
        self.states[phase].sizes.iter().zip(digits).fold(0, |id, (size, &d)| id * size + u64::from(d))
    }

    /// Value of an axis, by name, at a point of a phase.
    pub fn value<'s>(job: &'s Job, phase: usize, digits: &[u32], name: &str) -> Option<&'s Value> {
        let phase = &job.phases[phase];
        let place = phase.relevant.iter().position(|&a| job.axes[a].name == name)?;
        job.axes[phase.relevant[place]].values.get(digits[place] as usize)
    }

    /// Starts on an instance: its body and what it needs. `None` (and marked failed) if that is already wrong.
    fn open(&mut self, me: Instance) -> Option<Frame> {
        let job = self.job;
        let digits = self.digits(me);
        let phase = &job.phases[me.phase];
        let active: Vec<u32> = phase
            .variants
            .iter()
            .enumerate()
            .filter(|(_, v)| {
                v.when.iter().all(|(axis, places)| {
                    let place = phase.relevant.iter().position(|a| a == axis);
                    place.is_some_and(|p| places.contains(&digits[p]))
                })
            })
            .map(|(i, _)| u32::try_from(i).unwrap_or(u32::MAX))
            .collect();
        let body = match self.states[me.phase].bodies.get(&active) {
            Some(body) => body.clone(),
            None => {
                let body = Rc::new(body_of(job, phase, &active, self.bodies));
                self.bodies += 1;
                self.states[me.phase].bodies.insert(active, body.clone());
                body
            }
        };
        self.set_mark(me, OPEN);
        match self.needs(me, &digits, &body) {
            Some((needs, externals)) => Some(Frame { me, digits, body, needs, externals, next: 0 }),
            None => {
                self.set_mark(me, FAILED);
                None
            }
        }
    }

    fn cycle(&self, stack: &[Frame], back: Instance) -> String {
        let from = stack.iter().position(|f| f.me == back).unwrap_or(0);
        let mut words: Vec<String> = stack[from..].iter().map(|f| self.title(f.me)).collect();
        words.push(self.title(back));
        words.join(" needs ")
    }

    fn title(&self, i: Instance) -> String {
        let phase = &self.job.phases[i.phase];
        let mut words = phase.name.clone();
        for (&axis, digit) in phase.relevant.iter().zip(self.digits(i)) {
            let def = &self.job.axes[axis];
            words.push_str(&format!(" {}={}", def.name, plain(&def.values[digit as usize])));
        }
        words
    }

    /// All needs are there: makes the task, or finds that it exists already.
    fn close(&mut self, frame: &Frame) {
        if self.mark(frame.me) != OPEN {
            return;
        }
        let task = self.task(frame);
        self.set_mark(frame.me, task.unwrap_or(FAILED));
    }

    fn task(&mut self, frame: &Frame) -> Option<u32> {
        let job = self.job;
        let phase = &job.phases[frame.me.phase];
        let axis = |name: &str| Self::value(job, frame.me.phase, &frame.digits, name);
        let at = |places: &[usize]| -> Vec<u32> { places.iter().map(|&p| frame.digits[p]).collect() };
        // where no two points have the same parameters, remembering them would only cost memory
        let params_key = (!frame.body.distinct).then(|| (frame.body.number, at(&frame.body.params_axes)));
        let decoded = match params_key.as_ref().and_then(|k| self.decoded.get(k)) {
            Some(found) => found.clone(),
            None => {
                let made = decode(phase, &frame.body, &axis, self.report).map(Rc::new);
                if let Some(key) = params_key {
                    self.decoded.insert(key, made.clone());
                }
                made
            }
        };
        let terms_key = (frame.body.number, at(&frame.body.terms_axes));
        let terms = match self.terms.get(&terms_key) {
            Some(found) => found.clone(),
            None => {
                let made = terms(phase, &frame.body, &axis, self.report).map(Rc::new);
                self.terms.insert(terms_key, made.clone());
                made
            }
        };
        let mut uses = frame.body.content_uses;
        let mut inputs: BTreeMap<String, Vec<TaskRef>> = BTreeMap::new();
        let mut services = BTreeMap::new();
        for need in &frame.needs {
            let number = self.mark(need.of);
            let up = self.tasks.get(number as usize)?;
            let reference = TaskRef { phase: up.phase.clone(), key: up.key.clone() };
            if need.service {
                services.insert(need.role.to_string(), reference);
            } else {
                let role = inputs.entry(need.role.to_string()).or_default();
                // two points of the upstream may be one task
                if !role.contains(&reference) {
                    role.push(reference);
                }
            }
            let upstream = &job.phases[need.of.phase];
            let open = self.uses(need.of) & !need.pinned;
            for (i, &a) in upstream.relevant.iter().enumerate().filter(|(i, _)| open & (1 << i) != 0) {
                debug_assert!(i < crate::job::MAX_AXES);
                let name = &job.axes[a].name;
                if let Some(mine) = phase.relevant.iter().position(|&m| job.axes[m].name == *name) {
                    uses |= 1 << mine;
                }
            }
        }
        let (decoded, terms) = (decoded?, terms?);
        if let Some(slot) =
            usize::try_from(frame.me.id).ok().and_then(|id| self.states[frame.me.phase].uses.get_mut(id))
        {
            *slot = uses;
        }
        let mut sources: BTreeMap<String, Vec<Source>> = BTreeMap::new();
        for external in &frame.externals {
            let role = sources.entry(external.role.to_string()).or_default();
            if !role.contains(&external.source) {
                role.push(external.source.clone());
            }
        }
        let mut keys: BTreeMap<String, ContentKey> = BTreeMap::new();
        for role in inputs.keys().chain(sources.keys()) {
            let tasks = inputs.get(role).into_iter().flatten().map(|r| r.key.as_str());
            let others = sources.get(role).into_iter().flatten().map(|s| s.identity.as_str());
            let joined: Vec<&str> = tasks.chain(others).collect();
            keys.insert(role.clone(), ContentKey(joined.join(",")));
        }
        keys.extend(services.iter().map(|(role, r): (&String, &TaskRef)| (role.clone(), r.key.clone())));
        let key = ContentKey::of_canonical(phase.kind.name(), &decoded.canonical, &keys);
        let number = match self.by_key.get(&key) {
            Some(&number) => number,
            None => {
                let number = u32::try_from(self.tasks.len()).ok().filter(|n| *n < FAILED)?;
                self.by_key.insert(key.clone(), number);
                self.tasks.push(Task {
                    key,
                    phase: phase.name.clone(),
                    also: Vec::new(),
                    labels: BTreeMap::new(),
                    points: Vec::new(),
                    shared_by: 0,
                    work: Rc::try_unwrap(decoded)
                        .map_or_else(|shared| shared.params.clone(), |own| own.params),
                    inputs,
                    sources,
                    services,
                    consumers: Vec::new(),
                    resources: terms.resources.clone(),
                    extra: terms.extra.clone(),
                    retry: terms.retry.clone(),
                    estimate_s: terms.estimate_s,
                    margin_s: terms.margin_s,
                });
                self.drafts.push(Draft {
                    phase: frame.me.phase,
                    digits: frame.digits.clone(),
                    uses,
                    single: uses,
                });
                number
            }
        };
        self.join(number, frame, uses, &terms);
        Some(number)
    }

    /// Adds one instance to its task.
    fn join(&mut self, number: u32, frame: &Frame, uses: u64, terms: &Terms) {
        let job = self.job;
        let phase = &job.phases[frame.me.phase];
        let weight = self.states[frame.me.phase].weight;
        let (task, draft) = (&mut self.tasks[number as usize], &mut self.drafts[number as usize]);
        task.shared_by = task.shared_by.saturating_add(weight);
        if draft.phase == frame.me.phase {
            draft.single &= uses;
            for i in 0..frame.digits.len() {
                if frame.digits[i] != draft.digits[i] {
                    draft.single &= !(1 << i);
                }
            }
        } else if !task.also.contains(&phase.name) {
            task.also.push(phase.name.clone());
        }
        // one task serves all its points: it must satisfy the most demanding one
        let (have, want) = (&mut task.resources, &terms.resources);
        have.cpus = have.cpus.max(want.cpus);
        have.gpus = have.gpus.max(want.gpus);
        have.memory_mb = have.memory_mb.max(want.memory_mb);
        have.walltime_s = have.walltime_s.max(want.walltime_s);
        task.margin_s = task.margin_s.max(terms.margin_s);
        task.estimate_s = task.estimate_s.max(terms.estimate_s);
        let me = (frame.me.phase, reduced(&self.states, frame.me.phase, &frame.digits, uses));
        let first = (draft.phase, reduced(&self.states, draft.phase, &draft.digits, draft.uses));
        if me == first {
            return;
        }
        if task.points.is_empty() {
            task.points.push(point(job, draft.phase, &draft.digits, draft.uses));
        }
        if self.points_seen.insert((number, me.0, me.1)) {
            task.points.push(point(job, me.0, &frame.digits, uses));
        }
    }

    fn finish(self) -> Vec<Task> {
        let mut tasks = self.tasks;
        for (task, draft) in tasks.iter_mut().zip(&self.drafts) {
            let phase = &self.job.phases[draft.phase];
            for (i, &axis) in phase.relevant.iter().enumerate() {
                if draft.single & (1 << i) != 0 {
                    let def = &self.job.axes[axis];
                    task.labels.insert(def.name.clone(), def.values[draft.digits[i] as usize].clone());
                }
            }
        }
        let users: Vec<(u32, ContentKey)> = tasks
            .iter()
            .flat_map(|t| {
                t.services.values().filter_map(|s| Some((*self.by_key.get(&s.key)?, t.key.clone())))
            })
            .collect();
        for (service, user) in users {
            tasks[service as usize].consumers.push(user);
        }
        tasks
    }
}

/// Number of a point when only some axes count.
fn reduced(states: &[PhaseState], phase: usize, digits: &[u32], uses: u64) -> u64 {
    let kept = digits.iter().enumerate().map(|(i, &d)| if uses & (1 << i) != 0 { d } else { 0 });
    states[phase].sizes.iter().zip(kept).fold(0, |id, (size, d)| id * size + u64::from(d))
}

fn point(job: &Job, phase: usize, digits: &[u32], uses: u64) -> Point {
    let axes = job.phases[phase].relevant.iter().zip(digits).enumerate();
    axes.filter(|(i, _)| uses & (1 << i) != 0)
        .map(|(_, (&axis, &d))| (job.axes[axis].name.clone(), job.axes[axis].values[d as usize].clone()))
        .collect()
}
