//! Kind `eval`: every problem of a split, several answers each, every program executed.

use crate::context::{Context, Ending, Failure, Report};
use crate::kinds::{cursor, load, verify};
use anyhow::Result;
use evaluate::{Drawing, Row, RunError};
use generate::{Engine, Sampling};
use model::Options;
use oracle::{RewardError, Scored, Scoring};
use record::FailureClass;
use record::layout;
use record::params::EvalParams;
use serde_json::json;

/// All judged answers, below `out/`.
pub const SAMPLES: &str = "samples.jsonl";

pub fn run(cx: &mut Context, params: &EvalParams) -> Result<Ending> {
    if [params.samples, params.max_batch, params.max_new_tokens].contains(&0) {
        return Err(Failure::user("samples, max_batch and max_new_tokens must be at least 1").into());
    }
    let problems = cursor::problems(cx, params.split, params.limit)?;
    let (model, _) = load(cx, "model", params.precision, params.quantization)?;
    let mut engine = model.engine(Options::new(params.max_batch, params.kv_bytes).offline());
    drop(model);
    if params.kv_bytes > 0 {
        // not after hours of measuring
        let prompts = problems.iter().map(|p| Ok(evaluate::prompt(&engine, p)?.len()));
        let longest = prompts.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(1);
        engine.check_limit(longest, params.max_new_tokens as usize)?;
    }
    let mut grader = verify::grader(cx, Scoring::default(), params.reward.as_ref())?;
    let drawing = Drawing {
        samples: params.samples,
        seed: params.seed,
        sampling: Sampling {
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            max_new_tokens: params.max_new_tokens,
            ..Sampling::default()
        },
    };
    // whole batches with fixed borders: a resumed run forms the batches of the uncut one
    let chunk = (engine.max_batch() / params.samples as usize).max(1);
    let mut rows: Vec<Row> = cursor::restore(cx)?;
    let mut done = rows.len() / params.samples as usize;
    if done > 0 {
        cx.note(format!("continuing behind problem {done}"))?;
    }
    let total = problems.len() as u64;
    while done < problems.len() {
        if let Some(why) = cx.stop() {
            cursor::save(cx, done as u64, &rows)?;
            return Ok(Ending::Checkpointed(format!("{why}: {done} of {total} problems measured")));
        }
        let part = &problems[done..problems.len().min(done + chunk)];
        let answered = evaluate::answer(&mut engine, &mut grader, part, &drawing);
        // told to leave while a judge was waited for
        if let (Err(RunError::Grading(RewardError::Away(_))), Some(why)) = (&answered, cx.stop()) {
            cursor::save(cx, done as u64, &rows)?;
            return Ok(Ending::Checkpointed(format!("{why}: {done} of {total} problems measured")));
        }
        rows.extend(answered.map_err(away)?);
        for alarm in grader.alarms() {
            cx.note(alarm)?;
        }
        done += part.len();
        for _ in part {
            cx.count_step();
        }
        cx.step(done as u64, Some(total), progress(&rows))?;
    }
    corpus::write_jsonl(&cx.out().join(SAMPLES), &rows)?;
    let samples: Vec<_> = rows.iter().map(Row::sample).collect();
    corpus::write_jsonl(&cx.out().join(layout::SCORES), &evaluate::problem_scores(&samples))?;
    let metrics = evaluate::metrics(&samples, params.bootstrap, params.seed);
    let unscored = samples.iter().filter(|s| s.stage.is_none()).count();
    if unscored == samples.len() {
        anyhow::bail!(
            "none of the {unscored} answers could be judged: {}",
            rows.last().map(|r| r.judged.reason.clone()).unwrap_or_default()
        );
    }
    let value =
        |name: &str| metrics.iter().find(|m| m.metric == name).and_then(|m| m.value).unwrap_or(f64::NAN);
    let mut message = format!(
        "{} problems x {} answers: partial credit {:.3}, all tests {:.3}, unscored {unscored}",
        problems.len(),
        params.samples,
        value("partial_credit"),
        value("all_tests_pass_rate"),
    );
    let rewards: Vec<&Scored> = rows.iter().filter_map(|r| r.reward.as_ref()).collect();
    if !rewards.is_empty() {
        let mean = metrics.iter().find(|m| m.metric == "reward").and_then(|m| m.value);
        message += &mean.map_or("; no reward".to_owned(), |v| format!("; reward {v:.3}"));
    }
    if let Some(without) = rewards.iter().rfind(|r| r.score.is_none()) {
        let n = rewards.iter().filter(|r| r.score.is_none()).count();
        message += &format!(", unscored {n}: {}", without.reason);
    }
    let facts = [
        ("problems".to_owned(), json!(problems.len())),
        ("answers".to_owned(), json!(rows.len())),
        ("bootstrap".to_owned(), json!(params.bootstrap)),
    ];
    Ok(Ending::Done(Report { message, metrics, facts: facts.into() }))
}

/// A judge that is away may come back.
fn away(e: RunError) -> anyhow::Error {
    match e {
        RunError::Grading(RewardError::Away(why)) => Failure::new(FailureClass::TryAgain, why).into(),
        e => e.into(),
    }
}

/// Running means, for the progress line.
fn progress(rows: &[Row]) -> [(&'static str, f64); 2] {
    let scores: Vec<f64> = rows.iter().filter_map(|r| r.judged.score).collect();
    let n = scores.len().max(1) as f64;
    let passed = rows.iter().filter(|r| r.stage == Some(oracle::Stage::PassesAll)).count() as f64;
    [("partial_credit", scores.iter().sum::<f64>() / n), ("all_tests_pass_rate", passed / n)]
}
