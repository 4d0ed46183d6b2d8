//! Kind `sample`: n answers per problem through a service, every program executed, the good ones kept.

use crate::context::{Context, Ending, Failure, Report};
use crate::kinds::{cursor, verify};
use anyhow::Result;
use corpus::{Problem, files};
use evaluate::Row;
use generate::Message;
use oracle::{Item, Scoring, Stage};
use record::FailureClass;
use record::params::{Keep, SampleParams};
use serde_json::json;
use serve::client::{Choice, Patience};
use serve::{Chat, Client, ClientError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// Problems between two checkpoints.
const CHECKPOINT_EVERY: usize = 128;

pub fn run(cx: &mut Context, params: &SampleParams) -> Result<Ending> {
    if params.n == 0 || params.concurrency == 0 || params.max_per_problem == 0 {
        return Err(Failure::user("n, concurrency and max_per_problem must be at least 1").into());
    }
    let problems = cursor::problems(cx, params.split, params.limit)?;
    let service = cx.spec.services.get("generator").ok_or_else(|| {
        Failure::user("there is no service: write `services: {generator: PHASE}` in the job file")
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let stop = Arc::clone(&stop);
        Client::of_service(&service.task_dir, Patience::default()).stopping_when(move || stop.load(Relaxed))
    };
    let mut rows: Vec<Row> = cursor::restore(cx)?;
    let from = rows.len() / params.n as usize;
    if from > 0 {
        cx.note(format!("continuing behind problem {from}"))?;
    }
    let ended = draw_and_judge(cx, params, &problems, &client, &stop, &mut rows, from);
    let done = rows.len() / params.n as usize;
    match ended {
        Ok(None) => finish(cx, params, &problems, &rows),
        Ok(Some(why)) => {
            cursor::save(cx, done as u64, &rows)?;
            Ok(Ending::Checkpointed(format!("{why}: {done} of {} problems sampled", problems.len())))
        }
        Err(e) => {
            // what has been drawn and judged is not lost with the service
            if done > from {
                cursor::save(cx, done as u64, &rows)?;
            }
            Err(e)
        }
    }
}

/// Threads ask the service for problem after problem; this thread judges what comes, in the problems' order, while they
/// go on asking. `Ok(Some(why))`: stopped, `rows` holds whole problems only.
fn draw_and_judge(
    cx: &mut Context,
    params: &SampleParams,
    problems: &[Problem],
    client: &Client,
    stop: &AtomicBool,
    rows: &mut Vec<Row>,
    from: usize,
) -> Result<Option<String>> {
    wait_for_service(cx, client, stop)?;
    if let Some(why) = cx.stop() {
        return Ok(Some(why.to_string()));
    }
    let mut oracle = verify::tests_oracle(cx)?;
    let next = AtomicUsize::new(from);
    // answers wait here for the sandbox; a few batches ahead are enough
    let (send, answers) = mpsc::sync_channel::<(usize, Result<Vec<Choice>, ClientError>)>(64);
    std::thread::scope(|scope| {
        for _ in 0..params.concurrency {
            let send = send.clone();
            let next = &next;
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Relaxed);
                    if i >= problems.len() || stop.load(Relaxed) {
                        return;
                    }
                    let drawn = client.chat(&chat(params, &problems[i])).map(|reply| reply.choices);
                    let failed = drawn.is_err();
                    if send.send((i, drawn)).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(send);
        let ended = judge_in_order(cx, problems, &answers, &mut oracle, rows, from);
        // whatever the reason, nobody asks on; threads in a call end with it
        stop.store(true, Relaxed);
        drop(answers);
        ended
    })
}

fn judge_in_order(
    cx: &mut Context,
    problems: &[Problem],
    answers: &mpsc::Receiver<(usize, Result<Vec<Choice>, ClientError>)>,
    oracle: &mut oracle::TestsOracle,
    rows: &mut Vec<Row>,
    from: usize,
) -> Result<Option<String>> {
    let mut early: HashMap<usize, Vec<Choice>> = HashMap::new();
    let mut done = from;
    let mut saved = from;
    while done < problems.len() {
        if let Some(why) = cx.stop() {
            return Ok(Some(why.to_string()));
        }
        let tick = std::time::Duration::from_millis(200);
        match answers.recv_timeout(tick) {
            Ok((i, drawn)) => {
                early.insert(i, drawn.map_err(service_failure)?);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                anyhow::bail!("the sampling threads ended before the last problem")
            }
        }
        // everything that is there already goes to the sandbox as one batch
        while let Ok((i, drawn)) = answers.try_recv() {
            early.insert(i, drawn.map_err(service_failure)?);
        }
        let mut batch = Vec::new();
        while let Some(choices) = early.remove(&done) {
            batch.extend(choices.into_iter().enumerate().map(|(k, c)| (done, k, c)));
            done += 1;
            cx.count_step();
            // however many answers are there: a stop is honoured at the next problem, not at the next batch
            if cx.stop().is_some() {
                break;
            }
        }
        if batch.is_empty() {
            continue;
        }
        let items: Vec<Item<'_>> =
            batch.iter().map(|(i, _, c)| Item { problem: &problems[*i], answer: &c.text }).collect();
        let judged = oracle.judge(&items, Scoring::default())?;
        for ((i, k, choice), judgement) in batch.into_iter().zip(&judged) {
            let k = u32::try_from(k).unwrap_or(u32::MAX);
            rows.push(Row::new(&problems[i], k, choice.text, choice.truncated, judgement));
        }
        let passed = rows.iter().filter(|r| r.stage == Some(Stage::PassesAll)).count();
        let share = passed as f64 / rows.len() as f64;
        cx.step(
            done as u64,
            Some(problems.len() as u64),
            [("verified", passed as f64), ("pass_rate", share)],
        )?;
        if done - saved >= CHECKPOINT_EVERY && done < problems.len() {
            cursor::save(cx, done as u64, rows)?;
            saved = done;
        }
    }
    Ok(None)
}

fn chat(params: &SampleParams, problem: &Problem) -> Chat {
    Chat {
        messages: vec![Message { role: "user".into(), content: problem.prompt.clone() }],
        n: params.n,
        temperature: params.temperature,
        top_p: params.top_p,
        max_tokens: params.max_new_tokens,
        seed: Some(evaluate::seed_of(params.seed, &problem.id)),
        stop: Vec::new(),
    }
}

/// Waits for the service on another thread, so that a stop signal is noticed meanwhile.
fn wait_for_service(cx: &mut Context, client: &Client, stop: &AtomicBool) -> Result<()> {
    let outcome = Mutex::new(None);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let ready = client.wait_ready();
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(ready);
        });
        while !waiting.is_finished() {
            if cx.stop().is_some() {
                stop.store(true, Relaxed);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    match outcome.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(Ok(endpoint)) => cx.note(format!("drawing from {} at {}", endpoint.model, endpoint.url)),
        // the caller sees the stop itself
        Some(Err(ClientError::Stopped)) => Ok(()),
        Some(Err(e)) => Err(service_failure(e)),
        None => anyhow::bail!("the thread that waited for the service died"),
    }
}

/// A service that is not there may come back; a request that it refuses is the job file's fault.
fn service_failure(e: ClientError) -> anyhow::Error {
    let class = match &e {
        ClientError::NotReady { .. } | ClientError::GaveUp { .. } | ClientError::Stopped => {
            FailureClass::TryAgain
        }
        ClientError::Refused { .. } => FailureClass::UserError,
        ClientError::Malformed { .. } => FailureClass::Error,
    };
    Failure::new(class, e.to_string()).into()
}

fn finish(cx: &mut Context, params: &SampleParams, problems: &[Problem], rows: &[Row]) -> Result<Ending> {
    let kept = keep(params, problems, rows);
    if kept.is_empty() {
        return Err(Failure::user(format!(
            "none of the {} answers to {} problems fits `keep: {}`: raise n, lower the bar, or train the generator \
             longer",
            rows.len(),
            problems.len(),
            json!(params.keep).as_str().unwrap_or_default(),
        ))
        .into());
    }
    corpus::write_jsonl(&cx.out().join(cursor::CANDIDATES), rows)?;
    corpus::write_jsonl(&cx.out().join(files::DEMONSTRATIONS), &kept)?;
    let samples: Vec<_> = rows.iter().map(Row::sample).collect();
    let solved: HashSet<&str> =
        rows.iter().filter(|r| r.stage == Some(Stage::PassesAll)).map(|r| r.problem.as_str()).collect();
    let unscored = rows.iter().filter(|r| r.stage.is_none()).count();
    let message = format!(
        "{} answers drawn, {} kept; {} of {} problems solved at least once; {unscored} unscored",
        rows.len(),
        kept.len(),
        solved.len(),
        problems.len(),
    );
    let facts = [
        ("drawn".to_owned(), json!(rows.len())),
        ("kept".to_owned(), json!(kept.len())),
        ("problems_solved".to_owned(), json!(solved.len())),
        ("unscored".to_owned(), json!(unscored)),
    ];
    let metrics = evaluate::metrics(&samples, 1000, params.seed);
    Ok(Ending::Done(Report { message, metrics, facts: facts.into() }))
}

/// The rows that the rule accepts: different programs, the best first, at most `max_per_problem` each.
fn keep(params: &SampleParams, problems: &[Problem], rows: &[Row]) -> Vec<corpus::Row> {
    let mut of: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        of.entry(&row.problem).or_default().push(row);
    }
    let mut kept = Vec::new();
    for problem in problems {
        let mut candidates: Vec<&Row> = of.get(problem.id.as_str()).cloned().unwrap_or_default();
        candidates.retain(|row| match params.keep {
            Keep::Verified => row.stage == Some(Stage::PassesAll),
            Keep::Best => row.stage >= Some(Stage::Runs),
            Keep::All => !row.answer.trim().is_empty(),
        });
        candidates
            .sort_by(|a, b| b.judged.score.partial_cmp(&a.judged.score).unwrap_or(std::cmp::Ordering::Equal));
        let most = if params.keep == Keep::Best { 1 } else { params.max_per_problem as usize };
        let mut programs = HashSet::new();
        candidates.retain(|row| programs.insert(row.program.clone().unwrap_or_else(|| row.answer.clone())));
        kept.extend(candidates.into_iter().take(most).map(|row| corpus::Row {
            problem_id: problem.id.clone(),
            prompt: problem.prompt.clone(),
            completion: row.answer.clone(),
            correct: row.stage.map(|s| s == Stage::PassesAll),
        }));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use oracle::Scored;
    use record::params::Split;

    fn problem() -> Problem {
        Problem {
            id: "p".into(),
            family: "f".into(),
            values: vec![],
            split: Split::Train,
            novelty: None,
            prompt: "Do it.".into(),
            tests: vec![],
            reference: String::new(),
        }
    }

    fn row(program: &str, stage: Option<Stage>, score: Option<f64>) -> Row {
        Row {
            problem: "p".into(),
            group: None,
            sample: 0,
            answer: program.into(),
            truncated: false,
            judged: Scored { score, ..Scored::unscored("tests", "") },
            stage,
            passed: 0,
            total: 2,
            program: Some(program.into()),
            stub: false,
            constant: false,
            reward: None,
            oracles: Vec::new(),
        }
    }

    fn kept(rule: Keep, max: u32, rows: &[Row]) -> Vec<String> {
        let params = SampleParams { keep: rule, max_per_problem: max, ..SampleParams::default() };
        keep(&params, &[problem()], rows).into_iter().map(|r| r.completion).collect()
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        let rows = [
            row("half", Some(Stage::PassesSome), Some(0.8)),
            row("right", Some(Stage::PassesAll), Some(1.0)),
            row("right", Some(Stage::PassesAll), Some(1.0)),
            row("other", Some(Stage::PassesAll), Some(1.0)),
            row("third", Some(Stage::PassesAll), Some(1.0)),
            row("broken", Some(Stage::Invalid), Some(0.0)),
            row("unjudged", None, None),
        ];
        assert_eq!(kept(Keep::Verified, 2, &rows), ["right", "other"]);
        assert_eq!(kept(Keep::Verified, 9, &rows), ["right", "other", "third"]);
        assert_eq!(kept(Keep::Best, 9, &rows), ["right"]);
        assert_eq!(kept(Keep::Best, 9, &rows[..1]), ["half"]);
        assert_eq!(kept(Keep::All, 9, &rows).len(), 6);
    }

    #[test]
    fn what_nobody_could_judge_is_neither_verified_nor_best() {
        let rows = [row("a", None, None), row("b", Some(Stage::Invalid), Some(0.0))];
        assert!(kept(Keep::Verified, 2, &rows).is_empty());
        assert!(kept(Keep::Best, 2, &rows).is_empty());
    }
}
