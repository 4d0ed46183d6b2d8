//! Counters of a server, in Prometheus' text format.

use generate::CacheUse;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Everything `/metrics` shows. Counters only grow; gauges are set by the engine's thread.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// (status, number of answers).
    answers: Mutex<Vec<(u16, u64)>>,
    pub requests: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub generated_tokens: AtomicU64,
    pub steps: AtomicU64,
    pub cancelled: AtomicU64,
    /// Sequences running or waiting in the engine.
    pub sequences: AtomicUsize,
    cache: Mutex<CacheUse>,
    /// Milliseconds since the epoch of the last request.
    pub last_request_ms: AtomicI64,
}

impl Metrics {
    pub fn answered(&self, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match answers.iter_mut().find(|(s, _)| *s == status) {
            Some((_, n)) => *n += 1,
            None => answers.push((status, 1)),
        }
    }

    /// What the engine holds now.
    pub fn set_cache(&self, now: CacheUse) {
        *self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }

    pub fn text(&self, draining: bool) -> String {
        let mut out = String::new();
        let mut row = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(
                out,
                "# HELP bessemer_{name} {help}\n# TYPE bessemer_{name} {kind}\nbessemer_{name} {value}"
            );
        };
        row("requests_total", "counter", "Generation requests accepted.", self.requests.load(Relaxed));
        row(
            "prompt_tokens_total",
            "counter",
            "Tokens of accepted prompts.",
            self.prompt_tokens.load(Relaxed),
        );
        row("generated_tokens_total", "counter", "Tokens generated.", self.generated_tokens.load(Relaxed));
        row("steps_total", "counter", "Decoding steps of the whole batch.", self.steps.load(Relaxed));
        row("cancelled_total", "counter", "Sequences whose client left.", self.cancelled.load(Relaxed));
        row("sequences", "gauge", "Sequences running or waiting.", self.sequences.load(Relaxed) as u64);
        row("draining", "gauge", "1 while nothing new is taken.", u64::from(draining));
        let cache = *self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        row("kv_pages", "gauge", "Pages of keys and values of running sequences.", cache.pages as u64);
        row("kv_pages_kept", "gauge", "Pages of beginnings that nobody uses.", cache.kept as u64);
        if let Some(limit) = cache.limit {
            row("kv_pages_limit", "gauge", "Most pages there may be.", limit as u64);
        }
        row("kv_page_bytes", "gauge", "Bytes of a page.", cache.page_bytes as u64);
        row("preemptions_total", "counter", "Sequences computed again for want of pages.", cache.preemptions);
        row("reused_tokens_total", "counter", "Tokens found in pages.", cache.reused_tokens);
        out.push_str(
            "# HELP bessemer_answers_total HTTP answers by status.\n# TYPE bessemer_answers_total counter\n",
        );
        for (status, n) in self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            let _ = writeln!(out, "bessemer_answers_total{{code=\"{status}\"}} {n}");
        }
        out
    }
}
