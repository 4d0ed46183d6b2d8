//! `bessemer doctor`: what this machine can do, and what to do about what it cannot.

mod isolation;
mod machine;
mod programs;

use crate::cli::Doctor;
use crate::context::Context;
use crate::failure::Result;
use record::exit;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Ok,
    /// Works, with a loss that is named.
    Warn,
    /// Something that sweeps need does not work.
    Bad,
}

/// One line of the findings.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do; never empty for [`Level::Bad`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
    /// The same as facts, for programs.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub facts: serde_json::Value,
}

impl Finding {
    pub fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            text: text.into(),
            advice: String::new(),
            facts: serde_json::Value::Null,
        }
    }

    pub fn warn(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, advice: advice.into(), ..Self::ok(check, text) }
    }

    pub fn bad(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Bad, ..Self::warn(check, text, advice) }
    }

    pub fn facts(mut self, facts: impl Serialize) -> Self {
        self.facts = serde_json::to_value(facts).unwrap_or_default();
        self
    }
}

pub fn run(context: &mut Context, args: &Doctor) -> Result {
    let mut findings = vec![
        programs::worker(),
        programs::python(),
        programs::gpus(),
        programs::scheduler(),
        machine::ledger(&context.state_dir),
        machine::room("runs", &context.runs_dir),
        machine::clock(&context.state_dir),
    ];
    findings.extend(isolation::findings());
    // what needs attention stands last, where the eye is
    findings.sort_by_key(|f| f.level as u8);
    let bad = findings.iter().filter(|f| f.level == Level::Bad).count();
    if args.json {
        let doc = serde_json::json!({
            "format": record::FORMAT,
            "kind": "doctor",
            "version": env!("CARGO_PKG_VERSION"),
            "ok": bad == 0,
            "findings": findings,
        });
        context.out.line(serde_json::to_string_pretty(&doc).map_err(std::io::Error::other)?);
    } else {
        for f in &findings {
            show(context, f);
        }
    }
    Ok(if bad > 0 { exit::FAILED } else { exit::DONE })
}

fn show(context: &mut Context, f: &Finding) {
    let (mark, colour) = match f.level {
        Level::Ok => ('✓', "32"),
        Level::Warn => ('!', "33"),
        Level::Bad => ('✗', "31"),
    };
    let (on, off) = if context.color { (format!("\x1b[{colour}m"), "\x1b[0m") } else { (String::new(), "") };
    context.out.line(format_args!("{on}{mark} {:<10}{off} {}", f.check, f.text));
    if !f.advice.is_empty() {
        context.out.line(format_args!("             → {}", f.advice));
    }
}
