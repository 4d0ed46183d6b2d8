//! `bessemer sandbox run FILE < input`.

use super::Run;
use crate::context::Context;
use crate::failure::{Failure, Result};
use record::exit;
use sandbox::{Job, Limits, Verdict};
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

pub fn run(context: &mut Context, args: &Run) -> Result {
    let code =
        std::fs::read(&args.file).map_err(|e| Failure::input(format!("{}: {e}", args.file.display())))?;
    let language = match &args.language {
        Some(l) => l.clone(),
        None => by_ending(&args.file)?,
    };
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_end(&mut input)?;
    }
    let limits = Limits {
        wall_s: args.time,
        cpu_s: args.time,
        memory_mb: args.memory,
        output_bytes: 64 << 20,
        ..Limits::default()
    };
    let sandbox = args.slots.start()?;
    let result = sandbox.run(&Job { limits, ..Job::stdio("run", language, code).input(input) });
    if let Some(c) = result.compile.as_ref().filter(|c| !c.output.is_empty()) {
        std::io::stderr().write_all(&c.output)?;
    }
    let Some(test) = result.tests.first() else {
        let why = result.reason.unwrap_or_else(|| "it does not compile".into());
        return Err(Failure::new(
            if result.verdict == Verdict::Unscored { exit::FAILED } else { exit::USER_ERROR },
            why,
        ));
    };
    context.out.bytes(&test.stdout);
    context.out.flush()?;
    std::io::stderr().write_all(&test.stderr)?;
    if context.verbose > 0 || !matches!(result.verdict, Verdict::Pass | Verdict::RuntimeError) {
        let verdict = serde_json::to_value(result.verdict).unwrap_or_default();
        eprintln!(
            "bessemer sandbox: {}; {:.0} ms, {:.0} ms CPU, {:.1} MiB, tier {}",
            verdict.as_str().unwrap_or_default(),
            test.wall_ms,
            test.cpu_ms,
            test.memory_peak_mb,
            result.tier
        );
        if let Some(why) = &test.reason {
            eprintln!("bessemer sandbox: {why}");
        }
    }
    // as a shell says it: 128 + signal
    Ok(test.exit_code.or(test.signal.map(|n| 128 + n)).unwrap_or(match result.verdict {
        Verdict::TimeLimit => 124, // as timeout(1) says it
        _ => exit::FAILED,
    }))
}

fn by_ending(file: &Path) -> Result<String> {
    let ending = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let name = match ending {
        "py" => "python",
        "c" => "c",
        "cpp" | "cc" | "cxx" => "cpp",
        "rs" => "rust",
        "js" => "nodejs",
        "sh" => "bash",
        _ => {
            let known = sandbox::lang::names().join(", ");
            let text = format!("{}: which language? say --language, one of {known}", file.display());
            return Err(Failure::usage(text));
        }
    };
    Ok(name.to_owned())
}
