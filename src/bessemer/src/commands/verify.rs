//! `bessemer verify`: are the results what was recorded?

use crate::cli::Verify;
use crate::context::Context;
use crate::failure::Result;
use crate::sweeps;
use record::verify::{self, Depth, Problem};
use record::{exit, layout};

pub fn run(context: &mut Context, args: &Verify) -> Result {
    let dir = sweeps::run_dir(context, args.sweep.as_deref())?;
    let graph = sweeps::graph(&dir)?;
    let depth = if args.quick { Depth::Size } else { Depth::Hash };
    let (mut good, mut files, mut bytes, mut open, mut bad) = (0usize, 0usize, 0u64, 0usize, 0usize);
    for task in graph.tasks.iter().filter(|t| !t.work.kind().is_service()) {
        match verify::result(&layout::task_dir(&dir, &task.key), &task.key, depth) {
            Ok(whole) => {
                good += 1;
                files += whole.record.outputs.len();
                bytes += whole.record.outputs.iter().map(|o| o.bytes).sum::<u64>();
            }
            Err(Problem::NoResult(_)) => open += 1,
            Err(p) => {
                bad += 1;
                context.out.line(format_args!("{} ({}): {p}", task.title(), task.key));
            }
        }
        if context.out.is_closed() {
            break;
        }
    }
    let how = if args.quick { "sizes compared" } else { "hashes compared" };
    context.out.line(format_args!(
        "{}: {good} results hold ({files} files, {:.1} MB, {how}), {open} tasks without result, {bad} damaged",
        graph.sweep,
        mb(bytes),
    ));
    if bad > 0 {
        context.out.line(
            "a damaged result is not used: `bessemer resume` runs those tasks again, and whatever depends on them waits",
        );
        return Ok(exit::FAILED);
    }
    Ok(exit::DONE)
}

#[allow(clippy::cast_precision_loss)]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
