//! Progress for terminals: the newest event of a running attempt, and bars. Pure text; who draws it where is the
//! caller's business.

use crate::state::State;
use crate::units::{duration, number};
use record::Event;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Where a running attempt is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    pub step: Option<u64>,
    pub of: Option<u64>,
    /// Newest value of each name.
    pub values: BTreeMap<String, f64>,
    /// Newest line for people.
    pub note: Option<String>,
    /// Time of the newest event, milliseconds since the epoch.
    pub at_ms: i64,
    /// Steps per second over the part of the log that was read.
    pub steps_per_s: Option<f64>,
}

/// Reads the end of an event log: enough for progress, however long the log is.
///
/// # Errors
/// I/O errors other than "not found", which is no progress yet.
pub fn read(events: &Path) -> io::Result<Progress> {
    const TAIL: u64 = 64 << 10;
    let mut file = match File::open(events) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Progress::default()),
        Err(e) => return Err(e),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    // the first line may be cut by the seek and the last by a writer: both fail to parse and are left out
    let events = text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<Event>(line).ok());
    Ok(Progress::of(events))
}

impl Progress {
    /// Sums up events in their order.
    pub fn of(events: impl IntoIterator<Item = Event>) -> Self {
        let mut p = Progress::default();
        let mut first: Option<(u64, i64)> = None;
        for e in events {
            p.at_ms = e.at;
            if let Some(step) = e.step {
                // a resumed attempt starts over from its checkpoint: so does the speed
                if first.is_none() || p.step.is_some_and(|before| step < before) {
                    first = Some((step, e.at));
                }
                p.step = Some(step);
            }
            p.of = e.of.or(p.of);
            p.values.extend(e.values);
            p.note = e.note.or(p.note.take());
        }
        if let (Some((step0, at0)), Some(step)) = (first, p.step)
            && step > step0
            && p.at_ms > at0
        {
            #[allow(clippy::cast_precision_loss)]
            let rate = (step - step0) as f64 * 1000.0 / (p.at_ms - at0) as f64;
            p.steps_per_s = Some(rate);
        }
        p
    }

    /// Seconds left at the present speed, where steps and their number are known.
    #[must_use]
    pub fn eta_s(&self) -> Option<f64> {
        let left = self.of?.saturating_sub(self.step?);
        #[allow(clippy::cast_precision_loss)]
        let left = left as f64;
        self.steps_per_s.map(|rate| left / rate)
    }
}

/// One task as a line.
#[derive(Debug, Clone)]
pub struct Bar {
    pub title: String,
    pub state: State,
    pub attempt: u32,
    pub progress: Progress,
    /// Since the attempt started, if it runs; or how long it took.
    pub elapsed_s: Option<f64>,
    /// Replaces the values where there is something more important to say.
    pub detail: String,
}

/// Values worth a place in a line, most telling first; others follow by name.
const TELLING: [&str; 6] = ["reward", "loss", "validation", "pass", "kl", "tokens_per_s"];

/// Renders bars as lines of at most `width` columns; titles and bars line up. `color` adds ANSI colours, which take no
/// columns.
#[must_use]
pub fn lines(bars: &[Bar], width: usize, color: bool) -> Vec<String> {
    let title = bars.iter().map(|b| b.title.width()).max().unwrap_or(0).min(width / 3);
    let gauge = (width / 6).clamp(6, 24);
    bars.iter().map(|b| line(b, title, gauge, width, color)).collect()
}

fn line(b: &Bar, title: usize, gauge: usize, width: usize, color: bool) -> String {
    let share = match (b.state, b.progress.step, b.progress.of) {
        (State::Succeeded, ..) => Some(1.0),
        #[allow(clippy::cast_precision_loss)]
        (_, Some(step), Some(of)) if of > 0 => Some((step as f64 / of as f64).min(1.0)),
        _ => None,
    };
    let steps = match (b.progress.step, b.progress.of) {
        (Some(s), Some(of)) => format!("{s}/{of}"),
        (Some(s), None) => format!("{s}"),
        _ => b.state.name().to_owned(),
    };
    let mut tail = Vec::new();
    if b.attempt > 1 {
        tail.push(format!("attempt {}", b.attempt));
    }
    if b.detail.is_empty() {
        tail.extend(values(&b.progress));
    } else {
        tail.push(b.detail.replace(['\n', '\r', '\t'], " "));
    }
    match (b.state, b.elapsed_s, b.progress.eta_s()) {
        (State::Running, _, Some(eta)) => tail.push(format!("{} left", duration(eta))),
        (_, Some(s), _) => tail.push(duration(s)),
        _ => {}
    }
    let text = format!(
        "{} {} {} {:>11}  {}",
        b.state.mark(),
        fit(&b.title, title),
        share.map_or_else(|| " ".repeat(gauge), |s| bar(s, gauge)),
        steps,
        tail.join("  ")
    );
    let text = cut(text.trim_end(), width);
    match (color, colour(b.state)) {
        (true, Some(code)) => format!("\x1b[{code}m{text}\x1b[0m"),
        _ => text,
    }
}

fn colour(state: State) -> Option<&'static str> {
    match state.look() {
        "ok" => Some("32"),
        "run" => Some("36"),
        "bad" => Some("31"),
        "half" => Some("33"),
        _ => Some("2"),
    }
}

fn values(p: &Progress) -> Vec<String> {
    let rank = |name: &str| TELLING.iter().position(|t| name.contains(t)).unwrap_or(TELLING.len());
    let mut named: Vec<_> = p.values.iter().filter(|(n, _)| rank(n) < TELLING.len()).collect();
    named.sort_by_key(|(n, _)| rank(n));
    named.into_iter().take(3).map(|(n, v)| format!("{n} {}", number(*v))).collect()
}

/// `share` in 0..=1 as `width` columns, in eighths of a column.
#[must_use]
pub fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = ['·', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let filled = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let mut text = "█".repeat(filled / 8);
    if filled / 8 < width {
        text.push(EIGHTHS[filled % 8]);
        text.push_str(&"·".repeat(width - filled / 8 - 1));
    }
    text
}

/// Padded or cut to exactly `width` columns.
#[must_use]
pub fn fit(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let pad = width - text.width();
    text + &" ".repeat(pad)
}

/// Cut to at most `width` columns, with an ellipsis where something is missing. Control characters become blanks: a
/// label must not move the terminal's cursor.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.width() <= width {
        return clean;
    }
    let mut out = String::new();
    let mut used = 0;
    for c in clean.chars() {
        let w = c.width().unwrap_or(0);
        if used + w + 1 > width {
            break;
        }
        used += w;
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: i64, step: u64, loss: f64) -> Event {
        Event {
            at,
            step: Some(step),
            of: Some(10),
            values: BTreeMap::from([("loss".to_owned(), loss)]),
            note: None,
        }
    }

    #[test]
    fn the_time_left_follows_the_speed_of_this_attempt() {
        let p = Progress::of([event(0, 1, 3.0), event(1000, 2, 2.0), event(2000, 3, 1.0)]);
        assert_eq!(p.eta_s(), Some(7.0));
        // a resume that starts again at step 2, twice as fast
        let p =
            Progress::of([event(0, 1, 3.0), event(9000, 3, 2.0), event(9500, 2, 2.5), event(10_000, 3, 1.0)]);
        assert_eq!(p.eta_s(), Some(3.5));
        assert_eq!(p.values["loss"], 1.0);
    }

    #[test]
    fn a_log_longer_than_the_tail_and_torn_at_both_ends_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut log = record::event::EventLog::append(&path).unwrap();
        for i in 0..5000 {
            log.push(&event(i64::try_from(i).unwrap(), i, 0.5)).unwrap();
        }
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"at\": 99999, \"step\": 7");
        std::fs::write(&path, text).unwrap();
        assert_eq!(read(&path).unwrap().step, Some(4999));
        assert_eq!(read(&dir.path().join("none")).unwrap(), Progress::default());
    }

    #[test]
    fn every_line_fits_and_bars_line_up() {
        let bars: Vec<Bar> = [("rl variant=binary seed=1", 4), ("é\u{1F600}漢字", 10), ("x\n\x1b[2J", 0)]
            .into_iter()
            .map(|(title, step)| Bar {
                title: title.into(),
                state: State::Running,
                attempt: 2,
                progress: Progress::of([event(0, 0, 1.0), event(1000, step, 0.5)]),
                elapsed_s: Some(3.0),
                detail: String::new(),
            })
            .collect();
        for width in [20, 60, 80, 200] {
            let drawn = lines(&bars, width, false);
            for l in &drawn {
                assert!(l.width() <= width, "{width}: {l}");
                assert!(!l.contains(['\n', '\x1b']));
            }
        }
        let drawn = lines(&bars, 120, false);
        assert!(drawn[0].contains("4/10") && drawn[0].contains("loss 0.500"), "{}", drawn[0]);
        let column = |l: &str| UnicodeWidthStr::width(&l[..l.find("/10").unwrap()]);
        assert_eq!(column(&drawn[0]), column(&drawn[1]), "{drawn:#?}");
        assert!(lines(&bars, 80, true)[0].starts_with("\x1b["));
    }

    #[test]
    fn bars_fill_from_the_left() {
        assert_eq!(bar(0.0, 4), "····");
        assert_eq!(bar(0.5, 4), "██··");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(7.0, 4), "████");
    }
}
