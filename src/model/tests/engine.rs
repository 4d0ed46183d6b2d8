//! The engine against a teacher-forced pass of the same weights, and against itself in other company.

mod common;

use common::{alone, tiny};
use generate::{Engine, EngineError, Finish, Request, Sampling, Sequence, StepEvent};
use model::config::Arch;
use model::{Model, Options, Pass};
use tch::{Kind, Tensor};

fn requests(model: &Model, n: u32) -> Vec<Request> {
    [
        "Read n integers.",
        "print(",
        "x",
        "Print how many are greater than 7.",
        "sum of 12 and 345 please, quickly",
    ]
    .iter()
    .enumerate()
    .map(|(i, text)| Request {
        prompt: model.tokenizer.encode(text).unwrap(),
        n,
        sampling: Sampling { seed: 100 * i as u64, max_new_tokens: 5 + 7 * i as u32, ..Sampling::default() },
    })
    .collect()
}

/// Log-probabilities of `tokens` after `prompt`, by one pass over the whole text.
fn teacher_forced(model: &Model, prompt: &[u32], tokens: &[u32]) -> Vec<f64> {
    let ids: Vec<i64> = prompt.iter().chain(tokens).map(|&t| i64::from(t)).collect();
    let _guard = tch::no_grad_guard();
    let h = model.decoder.trunk(&Tensor::from_slice(&ids).unsqueeze(0), None, Pass::EVAL).unwrap();
    let logp = model.decoder.logits(&h).log_softmax(-1, Kind::Float);
    tokens
        .iter()
        .enumerate()
        .map(|(i, &t)| logp.double_value(&[(prompt.len() + i) as i64 - 1, i64::from(t)]))
        .collect()
}

fn run(model: &Model, batch: usize, prefill: usize, requests: Vec<Request>) -> Vec<Vec<Sequence>> {
    model.engine(Options { max_batch: batch, prefill_tokens: prefill }).generate(requests).unwrap()
}

#[test]
fn logprobs_equal_a_teacher_forced_pass_in_any_batch() {
    let _alone = alone();
    for arch in Arch::ALL {
        let model = tiny(arch, 1);
        for (batch, prefill) in [(1, 1), (3, 30), (64, 8192)] {
            let asked = requests(&model, 3);
            let answers = run(&model, batch, prefill, asked.clone());
            for (request, samples) in asked.iter().zip(&answers) {
                assert_eq!(samples.len(), 3);
                for s in samples {
                    let want = teacher_forced(&model, &request.prompt, &s.tokens);
                    for (got, want) in s.logprobs.iter().zip(want) {
                        assert!(
                            (f64::from(*got) - want).abs() < 2e-5,
                            "{arch:?} batch {batch}: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_whatever_else_is_in_the_batch() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 2);
    let alone: Vec<_> =
        requests(&model, 4).into_iter().map(|r| run(&model, 1, 1, vec![r]).remove(0)).collect();
    for (batch, prefill) in [(2, 8192), (5, 40), (64, 8192)] {
        let together = run(&model, batch, prefill, requests(&model, 4));
        for (a, t) in alone.iter().flatten().zip(together.iter().flatten()) {
            assert_eq!((&a.tokens, &a.text, a.finish), (&t.tokens, &t.text, t.finish), "batch {batch}");
        }
    }
    let first = &alone[4];
    assert_ne!(first[0].tokens, first[1].tokens, "samples of one prompt must differ");
}

#[test]
fn greedy_equals_the_argmax_of_a_teacher_forced_pass() {
    let _alone = alone();
    let model = tiny(Arch::Qwen2, 3);
    let mut asked = requests(&model, 1);
    asked.iter_mut().for_each(|r| r.sampling.temperature = 0.0);
    for (request, samples) in asked.iter().zip(run(&model, 4, 8192, asked.clone())) {
        let ids: Vec<i64> = request.prompt.iter().chain(&samples[0].tokens).map(|&t| i64::from(t)).collect();
        let _guard = tch::no_grad_guard();
        let h = model.decoder.trunk(&Tensor::from_slice(&ids).unsqueeze(0), None, Pass::EVAL).unwrap();
        let best = Vec::<i64>::try_from(model.decoder.logits(&h).argmax(-1, false)).unwrap();
        for (i, &t) in samples[0].tokens.iter().enumerate() {
            assert_eq!(i64::from(t), best[request.prompt.len() + i - 1]);
        }
    }
}

#[test]
fn stop_texts_end_a_sequence_and_never_leak_into_the_stream() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 4);
    let mut request = requests(&model, 1).remove(4);
    let whole = run(&model, 1, 8192, vec![request.clone()]).remove(0).remove(0);
    let chars: Vec<char> = whole.text.chars().collect();
    assert!(chars.len() > 8, "the seed gives text to cut: {:?}", whole.text);
    let stop: String = chars[5..8].iter().collect();
    request.sampling.stop = vec![stop.clone(), "never-drawn".into()];
    let mut engine = model.engine(Options::default());
    engine.add(request).unwrap();
    let (mut streamed, mut done) = (String::new(), None);
    while engine.pending() > 0 {
        for event in engine.step().unwrap() {
            match event {
                StepEvent::Token { text, .. } => streamed += &text,
                StepEvent::Done(s) => done = Some(s),
            }
        }
    }
    let done = done.unwrap();
    assert_eq!(done.finish, Finish::Stop);
    assert_eq!(done.text, whole.text[..whole.text.find(&stop).unwrap()]);
    assert_eq!(streamed, done.text);
}

#[test]
fn cancelling_ends_one_sequence_and_leaves_the_others_as_they_were() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 5);
    let want = run(&model, 2, 8192, requests(&model, 2));
    let mut engine = model.engine(Options { max_batch: 3, prefill_tokens: 8192 });
    let ids: Vec<_> = requests(&model, 2).into_iter().map(|r| engine.add(r).unwrap()).collect();
    let mut done = Vec::new();
    let mut turn = 0;
    while engine.pending() > 0 {
        if turn == 2 {
            engine.cancel(ids[0][0]); // running
            engine.cancel(ids[4][1]); // waiting
        }
        turn += 1;
        done.extend(engine.step().unwrap().into_iter().filter_map(|e| match e {
            StepEvent::Done(s) => Some(s),
            StepEvent::Token { .. } => None,
        }));
    }
    assert_eq!(done.len(), 10);
    for (i, samples) in ids.iter().enumerate() {
        for (k, id) in samples.iter().enumerate() {
            let s = done.iter().find(|s| s.id == *id).unwrap();
            if (i, k) == (0, 0) || (i, k) == (4, 1) {
                assert_eq!(s.finish, Finish::Cancelled);
            } else {
                assert_eq!(s.tokens, want[i][k].tokens, "{i} {k}");
            }
        }
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_with_the_reason() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 6);
    let mut engine = model.engine(Options::default());
    let with = |prompt: Vec<u32>, sampling: Sampling| Request { prompt, n: 1, sampling };
    assert!(matches!(engine.add(with(vec![], Sampling::default())), Err(EngineError::Empty)));
    assert!(matches!(
        engine.add(with(vec![1; 96], Sampling::default())),
        Err(EngineError::TooLong { tokens: 96, context: 96 })
    ));
    assert!(engine.add(with(vec![999], Sampling::default())).is_err());
    let bad = Sampling { top_p: 1.5, ..Sampling::default() };
    assert!(engine.add(with(vec![1], bad)).unwrap_err().to_string().contains("top_p"));
    // the longest that fits: one token, then the context is full
    engine.add(with(vec![5; 95], Sampling { max_new_tokens: 50, ..Sampling::default() })).unwrap();
    let done = engine.step().unwrap();
    assert!(matches!(&done[1], StepEvent::Done(s) if s.finish == Finish::Length && s.tokens.len() == 1));
}
