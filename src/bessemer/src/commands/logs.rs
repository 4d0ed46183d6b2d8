//! `bessemer logs`: what a task wrote, live if wanted.

use crate::cli::Logs;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::{select, sweeps};
use record::{exit, layout};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn run(context: &mut Context, args: &Logs) -> Result {
    let dir = sweeps::run_dir(context, Some(&args.sweep))?;
    let graph = sweeps::graph(&dir)?;
    let task = select::task(&graph, &args.task)?;
    let task_dir = layout::task_dir(&dir, &task.key);
    let attempts = layout::attempts(&task_dir)?;
    let newest = attempts.last().copied();
    let attempt = match (args.attempt, newest) {
        (Some(n), _) if attempts.contains(&n) => n,
        (Some(n), Some(m)) => {
            return Err(Failure::usage(format!("{} has no attempt {n}; the newest is {m}", task.title())));
        }
        (None, Some(m)) => m,
        (_, None) => {
            return Err(Failure::usage(format!(
                "{} has not been tried yet: see `bessemer status {}`",
                task.title(),
                graph.sweep
            )));
        }
    };
    let attempt_dir = layout::attempt_dir(&task_dir, attempt);
    let file = if args.scheduler { schedulers(&attempt_dir)? } else { attempt_dir.join(layout::LOG) };
    if context.terminal || context.verbose > 0 {
        context.note(format_args!("{}, attempt {attempt}: {}", task.title(), file.display()));
    }
    let mut tail = Tail { file: file.clone(), at: 0 };
    match tail.first(args.lines) {
        Ok(bytes) => context.out.bytes(&bytes),
        Err(e) if e.kind() == ErrorKind::NotFound && args.follow => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Failure::usage(format!(
                "{} is not there: attempt {attempt} has not started. See `bessemer status {}`, or wait with -f",
                file.display(),
                graph.sweep
            )));
        }
        Err(e) => return Err(Failure::new(exit::FAILED, format!("{}: {e}", file.display()))),
    }
    while args.follow && !context.out.is_closed() {
        context.out.flush()?;
        // the record is written last: what came before it is all there is
        let over = attempt_dir.join(layout::RECORD).exists();
        let more = tail.more()?;
        context.out.bytes(&more);
        if over && more.is_empty() {
            break;
        }
        context.out.flush()?;
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(exit::DONE)
}

/// The newest file in `sched/`.
fn schedulers(attempt_dir: &Path) -> Result<PathBuf> {
    let dir = attempt_dir.join(layout::SCHED);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .filter_map(|e| {
            let e = e.ok()?;
            Some((e.metadata().ok()?.modified().ok()?, e.path()))
        })
        .collect();
    files.sort();
    files.pop().map(|(_, p)| p).ok_or_else(|| {
        Failure::usage(format!("the scheduler has written nothing to {} (yet)", dir.display()))
    })
}

/// A growing file.
struct Tail {
    file: PathBuf,
    at: u64,
}

impl Tail {
    /// What is there now, or its last `lines` lines. Reads backwards in pieces: logs of long runs are large.
    fn first(&mut self, lines: Option<usize>) -> std::io::Result<Vec<u8>> {
        let mut f = File::open(&self.file)?;
        let end = f.metadata()?.len();
        self.at = end;
        let Some(lines) = lines else {
            let mut all = Vec::new();
            f.take(end).read_to_end(&mut all)?;
            return Ok(all);
        };
        let mut from = end;
        let mut text: Vec<u8> = Vec::new();
        while from > 0 && newlines(&text) <= lines {
            let piece = from.min(64 << 10);
            from -= piece;
            f.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::with_capacity(text.len() + 65536);
            f.by_ref().take(piece).read_to_end(&mut bytes)?;
            bytes.extend(&text);
            text = bytes;
        }
        Ok(last_lines(&text, lines).to_vec())
    }

    /// What was added since. A file that became shorter is another one: from its start.
    fn more(&mut self) -> std::io::Result<Vec<u8>> {
        let mut f = match File::open(&self.file) {
            Ok(f) => f,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(e),
        };
        if f.metadata()?.len() < self.at {
            self.at = 0;
        }
        f.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        f.read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|b| **b == b'\n').count()
}

fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut starts = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1);
    &text[starts.nth(lines - 1).unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_long_file_are_found_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        let text: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&file, &text).unwrap();
        let first =
            |n| String::from_utf8(Tail { file: file.clone(), at: 0 }.first(Some(n)).unwrap()).unwrap();
        assert_eq!(first(2), "line 19998\nline 19999\n");
        assert_eq!(first(0), "");
        assert_eq!(first(20_000), text);
        assert_eq!(first(30_000), text);
        assert_eq!(last_lines(b"a\nb", 1), b"b");
    }

    #[test]
    fn what_is_added_is_shown_once_and_a_new_file_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        let mut tail = Tail { file: file.clone(), at: 0 };
        assert!(tail.more().unwrap().is_empty());
        std::fs::write(&file, "one\n").unwrap();
        assert_eq!(tail.more().unwrap(), b"one\n");
        assert!(tail.more().unwrap().is_empty());
        std::fs::write(&file, "b\n").unwrap();
        assert_eq!(tail.more().unwrap(), b"b\n");
    }
}
