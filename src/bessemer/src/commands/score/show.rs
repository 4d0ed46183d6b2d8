//! What is shown of scoring, on standard error: where it is, and what came of it.

use oracle::score::{Progress, Summary};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line that is rewritten on a terminal, and a new one now and then elsewhere.
pub struct Meter {
    size: Option<u64>,
    since: Instant,
    last: Option<Instant>,
    terminal: bool,
}

impl Meter {
    pub fn new(size: Option<u64>) -> Self {
        Self { size, since: Instant::now(), last: None, terminal: io::stderr().is_terminal() }
    }

    pub fn tick(&mut self, p: &Progress) {
        let pause = Duration::from_millis(if self.terminal { 200 } else { 30_000 });
        if self.last.unwrap_or(self.since).elapsed() < pause {
            return;
        }
        self.last = Some(Instant::now());
        let seconds = self.since.elapsed().as_secs_f64();
        let rate = p.scored as f64 / seconds.max(1e-3);
        let left = self.size.filter(|_| p.bytes > 0).map_or(String::new(), |size| {
            let share = p.bytes as f64 / size.max(1) as f64;
            format!(", {:.0} % read, about {:.0} s left", share * 100.0, seconds * (1.0 - share) / share)
        });
        let text = format!("{} rows scored, {} unscored, {rate:.1}/s{left}", p.scored, p.unscored);
        // a failed remark is no failure
        let _ = if self.terminal {
            write!(io::stderr(), "\r\x1b[K{text}")
        } else {
            writeln!(io::stderr(), "{text}")
        };
    }

    pub fn end(&mut self) {
        if self.terminal && self.last.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// The table at the end.
pub fn summary(s: &Summary) -> String {
    let mut out = format!("{} rows scored", s.scored);
    if s.skipped > 0 {
        out.push_str(&format!(", {} were done already", s.skipped));
    }
    out.push('\n');
    if !s.tallies.is_empty() {
        out.push_str(&format!(
            "{:<20} {:>8} {:>8} {:>8} {:>8} {:>10}\n",
            "oracle", "mean", "pass", "fail", "unscored", "seconds"
        ));
    }
    for (name, t) in &s.tallies {
        let mean = t.mean().map_or("-".to_owned(), |m| format!("{m:.4}"));
        let seconds = t.ms / 1000.0;
        out.push_str(&format!(
            "{name:<20} {mean:>8} {:>8} {:>8} {:>8} {seconds:>10.1}\n",
            t.pass, t.fail, t.unscored
        ));
    }
    for alarm in &s.alarms {
        out.push_str(&format!("warning: {alarm}\n"));
    }
    for bad in &s.bad {
        out.push_str(&format!("error: {bad}\n"));
    }
    if s.bad_total > s.bad.len() {
        out.push_str(&format!("error: and {} more bad lines\n", s.bad_total - s.bad.len()));
    }
    out
}
