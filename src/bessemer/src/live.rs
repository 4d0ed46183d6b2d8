//! The live view of a sweep: bars on a terminal, one line per change anywhere else.

use crate::context::{self, Context};
use crate::notes;
use ledger::view::{TaskState, TaskView, View};
use record::{AttemptRecord, ContentKey, StartRecord, Status, atomic, layout, verify};
use report::progress::{self, Bar, Progress};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Most queued tasks whose claim is looked for between two looks at the scheduler: a directory look-up each.
const LOOKED_FOR: usize = 200;

/// In lines mode a running task tells its progress no more often than this.
const LINES_EVERY_MS: i64 = 30_000;

/// Values worth a place in a line, most telling first.
const TELLING: [&str; 5] = ["reward", "loss", "pass", "kl", "tokens_per_s"];

/// What is shown, and what was shown.
#[derive(Debug)]
pub struct Live {
    draw: bool,
    /// Lines on the screen that the next picture replaces.
    drawn: usize,
    told: HashMap<ContentKey, Told>,
    /// Warnings that have been a line already.
    warned: HashSet<String>,
    started_ms: i64,
}

#[derive(Debug, Clone, PartialEq)]
struct Told {
    state: TaskState,
    attempt: Option<u32>,
    progress_ms: i64,
    step: Option<u64>,
}

impl Live {
    /// `plain`: lines even on a terminal.
    pub fn new(context: &Context, plain: bool) -> Self {
        let draw = context.terminal && !plain;
        Self { draw, drawn: 0, told: HashMap::new(), warned: HashSet::new(), started_ms: record::now_ms() }
    }

    /// Whether pictures are drawn, rather than lines written.
    pub fn draws(&self) -> bool {
        self.draw
    }

    /// Shows `view`; `remark` is the last line of a picture ("next look at the scheduler in 40 s").
    pub fn show(&mut self, context: &mut Context, view: &View, remark: &str) {
        let bars: Vec<(usize, Bar)> = view
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, t)| !t.service || t.state != TaskState::NotNeeded)
            .map(|(i, t)| (i, bar(view, t)))
            .collect();
        if self.draw {
            self.picture(context, view, bars, remark);
        } else {
            self.lines(context, view, &bars);
        }
        // a full disk behind a redirection shows itself at the end
        let _ = context.out.flush();
    }

    /// Leaves the last picture on the screen and writes below it from now on.
    pub fn leave(&mut self) {
        self.drawn = 0;
    }

    fn picture(&mut self, context: &mut Context, view: &View, bars: Vec<(usize, Bar)>, remark: &str) {
        let width = context::width();
        let rows = context::height().saturating_sub(4).max(4);
        let total = bars.len();
        let shown = most_telling(bars, &view.tasks, rows);
        let hidden = total - shown.len();
        let mut lines = vec![progress::cut(&headline(view, self.started_ms), width)];
        lines.extend(progress::lines(&shown, width, context.color));
        if hidden > 0 {
            lines.push(progress::cut(
                &format!("  ... and {hidden} more: bessemer status {} --all", view.sweep),
                width,
            ));
        }
        lines.extend(view.warnings.iter().take(3).map(|w| progress::cut(&format!("! {w}"), width)));
        if !remark.is_empty() {
            lines.push(progress::cut(remark, width));
        }
        let mut text = String::new();
        if self.drawn > 0 {
            // up, and clear to the end of the screen
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        for l in &lines {
            text.push_str(l);
            text.push('\n');
        }
        self.drawn = lines.len();
        context.out.text(text);
    }

    fn lines(&mut self, context: &mut Context, view: &View, bars: &[(usize, Bar)]) {
        let now = record::now_ms();
        for (i, bar) in bars {
            let task = &view.tasks[*i];
            let before = self.told.get(&task.key);
            let changed = before.is_none_or(|b| b.state != task.state || b.attempt != task.attempt);
            // tasks that nobody has touched yet are no news
            let news = changed
                && !(before.is_none() && matches!(task.state, TaskState::Planned | TaskState::NotNeeded));
            let moved = task.state == TaskState::Running
                && before
                    .is_some_and(|b| b.step != bar.progress.step && now - b.progress_ms >= LINES_EVERY_MS);
            let progress_ms = if news || moved { now } else { before.map_or(now, |b| b.progress_ms) };
            let step = if news || moved { bar.progress.step } else { before.and_then(|b| b.step) };
            let told = Told { state: task.state, attempt: task.attempt, progress_ms, step };
            self.told.insert(task.key.clone(), told);
            if news || moved {
                context.out.line(sentence(now, task, bar));
            }
        }
        for w in &view.warnings {
            if self.warned.insert(w.clone()) {
                context.out.line(format_args!("! {w}"));
            }
        }
    }
}

fn sentence(now: i64, task: &TaskView, bar: &Bar) -> String {
    let time = jiff::Timestamp::from_millisecond(now)
        .map_or_else(|_| String::new(), |t| t.strftime("%H:%M:%S").to_string());
    let mut text = format!("{time} {:<20} {}", task.state.name(), task.title);
    if let Some(n) = task.attempt.filter(|n| *n > 1) {
        text.push_str(&format!(", attempt {n}"));
    }
    if let (Some(step), Some(of)) = (bar.progress.step, bar.progress.of) {
        text.push_str(&format!(", step {step}/{of}"));
    }
    let rank = |name: &str| TELLING.iter().position(|t| name.contains(t)).unwrap_or(TELLING.len());
    let mut values: Vec<_> = bar.progress.values.iter().collect();
    values.sort_by_key(|(name, _)| rank(name));
    for (name, value) in values.into_iter().take(3) {
        text.push_str(&format!(", {name} {value:.4}"));
    }
    if !bar.detail.is_empty() {
        text.push_str(&format!(": {}", bar.detail.replace(['\n', '\r'], " ")));
    }
    text
}

fn headline(view: &View, started_ms: i64) -> String {
    let count = |s: &[TaskState]| view.tasks.iter().filter(|t| s.contains(&t.state)).count();
    let done = view.tasks.iter().filter(|t| t.state.is_done()).count();
    let mut text = format!("{}  {done}/{} done", view.sweep, view.tasks.len());
    for (name, states) in [
        ("running", &[TaskState::Running][..]),
        ("queued", &[TaskState::Queued, TaskState::Submitting]),
        ("deferred", &[TaskState::Deferred]),
        (
            "need a look",
            &[
                TaskState::Failed,
                TaskState::Lost,
                TaskState::Hopeless,
                TaskState::Damaged,
                TaskState::Cancelled,
            ],
        ),
    ] {
        let n = count(states);
        if n > 0 {
            text.push_str(&format!(", {n} {name}"));
        }
    }
    let seconds = (record::now_ms() - started_ms) / 1000;
    text.push_str(&format!("  ({}:{:02} here)", seconds / 60, seconds % 60));
    text
}

/// What fits into `rows` lines: what runs and what needs a look first, then what was last done and what comes next, in
/// the graph's order.
fn most_telling(bars: Vec<(usize, Bar)>, tasks: &[TaskView], rows: usize) -> Vec<Bar> {
    if bars.len() <= rows {
        return bars.into_iter().map(|(_, b)| b).collect();
    }
    let mut ranked: Vec<(u8, i64, usize)> = bars
        .iter()
        .enumerate()
        .map(|(at, (i, _))| {
            let t = &tasks[*i];
            match t.state {
                TaskState::Running | TaskState::FinishedUnconfirmed => (0, 0, at),
                s if s.needs_help() && s != TaskState::Blocked => (1, 0, at),
                TaskState::Queued | TaskState::Submitting | TaskState::Deferred => (2, 0, at),
                TaskState::Succeeded => (3, -t.ended_ms.unwrap_or(0), at),
                TaskState::Planned => (4, 0, at),
                _ => (5, 0, at),
            }
        })
        .collect();
    ranked.sort_unstable();
    let mut keep: Vec<usize> = ranked.into_iter().take(rows.saturating_sub(1)).map(|(_, _, at)| at).collect();
    keep.sort_unstable();
    let mut keep = keep.into_iter().peekable();
    bars.into_iter().enumerate().filter_map(|(at, (_, bar))| keep.next_if_eq(&at).map(|_| bar)).collect()
}

fn bar(view: &View, t: &TaskView) -> Bar {
    let progress = t.progress.as_ref().map_or_else(Progress::default, |p| Progress {
        step: p.step,
        of: p.of,
        values: p.values.clone(),
        note: p.note.clone(),
        at_ms: p.at_ms,
        #[allow(clippy::cast_precision_loss)]
        steps_per_s: p.first.and_then(|(first, at)| {
            let (steps, ms) = (p.step?.checked_sub(first)?, p.at_ms - at);
            (steps > 0 && ms > 0).then(|| steps as f64 * 1000.0 / ms as f64)
        }),
    });
    #[allow(clippy::cast_precision_loss)]
    let elapsed_s = match (t.started_ms, t.ended_ms) {
        (Some(a), Some(b)) if b >= a => Some((b - a) as f64 / 1000.0),
        (Some(a), None) if t.state == TaskState::Running => Some((view.at_ms - a).max(0) as f64 / 1000.0),
        _ => None,
    };
    Bar {
        title: t.title.clone(),
        state: notes::state(t.state),
        attempt: t.attempt.unwrap_or(0),
        progress,
        elapsed_s,
        detail: if t.state.needs_help() || t.state == TaskState::Deferred {
            notes::detail(t)
        } else {
            String::new()
        },
    }
}

/// Brings a view up to date from files alone, between two looks at the scheduler: claims, progress, records.
pub fn freshen(view: &mut View) {
    view.at_ms = record::now_ms();
    let run_dir = PathBuf::from(&view.run_dir);
    let mut looked_for = 0;
    for t in &mut view.tasks {
        let Some(n) = t.attempt else { continue };
        let dir = layout::attempt_dir(&layout::task_dir(&run_dir, &t.key), n);
        if matches!(t.state, TaskState::Queued | TaskState::Submitting) {
            looked_for += 1;
            if looked_for <= LOOKED_FOR
                && let Ok(Some(claim)) = atomic::read_json::<StartRecord>(&dir.join(layout::STARTED))
            {
                t.state = TaskState::Running;
                t.started_ms = Some(claim.at_ms);
                t.host = claim.host;
            }
        }
        if t.state == TaskState::Running {
            look_at_running(t, &dir);
        }
    }
}

fn look_at_running(t: &mut TaskView, dir: &Path) {
    if let Ok(p) = progress::read(&dir.join(layout::EVENTS))
        && p.at_ms > 0
    {
        let first = t.progress.as_ref().and_then(|p| p.first).or_else(|| Some((p.step?, p.at_ms)));
        t.progress = Some(ledger::view::Progress {
            step: p.step,
            of: p.of,
            values: p.values,
            note: p.note,
            at_ms: p.at_ms,
            first,
        });
    }
    if let Ok(Some(r)) = atomic::read_json::<AttemptRecord>(&dir.join(layout::RECORD)) {
        t.ended_ms = Some(r.ended_ms);
        t.message.clone_from(&r.message);
        // the attempt's own record is the first in the order of truth; the ledger will say the same at its next look
        t.state = match r.status {
            Status::Ok
                if verify::outputs(&dir.join(layout::OUT), &r.outputs, verify::Depth::Size).is_ok() =>
            {
                TaskState::Succeeded
            }
            Status::Ok => TaskState::FinishedUnconfirmed,
            Status::Checkpointed => TaskState::Checkpointed,
            Status::Failed => TaskState::Failed,
        };
        t.class = r.class.and_then(|c| serde_json::to_value(c).ok()?.as_str().map(str::to_owned));
    }
}
