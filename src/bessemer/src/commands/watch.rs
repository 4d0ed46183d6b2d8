//! `bessemer watch`: files every second, the scheduler once a minute at most.

use crate::cli::Watch;
use crate::context::Context;
use crate::engine;
use crate::failure::Result;
use crate::interrupts::Interrupts;
use crate::live::{self, Live};
use ledger::Filter;
use ledger::view::View;
use record::exit;
use std::time::{Duration, Instant};

/// Sites police polling; nobody needs a queue position more often (specs: F14).
const FLOOR_S: u64 = 60;

pub fn run(context: &mut Context, args: &Watch) -> Result {
    let mut opened = engine::open(context, args.sweep.as_deref())?;
    // a local sweep has no scheduler to be polite to
    let every = if opened.local { 2 } else { args.interval.max(FLOOR_S).max(opened.min_poll_s) };
    let interrupts = Interrupts::listen(None)?;
    let mut live = Live::new(context, args.plain);
    let mut view = opened.engine.refresh(&Filter::all())?;
    // whether `view` is what the ledger said, and not what files say since
    let mut looked = true;
    let mut next = Instant::now() + jittered(every);
    loop {
        let remark = remark(&view, opened.local, next);
        live.show(context, &view, &remark);
        if (over(&view) && looked) || context.out.is_closed() || interrupts.count() > 0 {
            break;
        }
        if !over(&view) {
            std::thread::sleep(Duration::from_secs(1));
        }
        // files said that it is over: the ledger has the last word
        if Instant::now() >= next || over(&view) {
            view = opened.engine.refresh(&Filter::all())?;
            next = Instant::now() + jittered(every);
            looked = true;
        } else {
            live::freshen(&mut view);
            looked = false;
        }
    }
    live.leave();
    if view.is_done() {
        context.out.line(format_args!("done: bessemer report {}", view.sweep));
        return Ok(exit::DONE);
    }
    if over(&view) {
        context.out.line(format_args!("nothing runs any more: bessemer status {}", view.sweep));
        return Ok(exit::FAILED);
    }
    Ok(exit::DONE)
}

/// Nothing will change without somebody's doing.
fn over(view: &View) -> bool {
    view.is_done()
        || (view.held_by.is_none() && view.tasks.iter().all(|t| t.state.is_done() || t.state.needs_help()))
}

fn remark(view: &View, local: bool, next: Instant) -> String {
    if local {
        return if view.held_by.is_some() {
            String::new()
        } else {
            format!("nobody drives this sweep: bessemer resume {}", view.sweep)
        };
    }
    let left = next.saturating_duration_since(Instant::now()).as_secs();
    format!("next look at the scheduler in {left} s; Ctrl-C leaves, the jobs go on")
}

/// Up to a tenth more, so that the watchers of one cluster do not ask in step.
fn jittered(seconds: u64) -> Duration {
    let noise = u64::try_from(record::now_ms()).unwrap_or(0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_millis(seconds * 1000 + noise % (seconds * 100 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_never_shorter_than_asked() {
        for _ in 0..100 {
            let d = jittered(60);
            assert!(d >= Duration::from_secs(60) && d <= Duration::from_secs(66), "{d:?}");
        }
    }
}
