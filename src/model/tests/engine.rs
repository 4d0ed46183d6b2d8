//! The engine against a teacher-forced pass of the same weights, and against itself in other company.

mod common;

use common::{adapters, after, alone, requests, teacher_forced, tiny};
use generate::{Engine, EngineError, Finish, Request, Sampling, Sequence, StepEvent};
use model::config::Arch;
use model::{Model, Options, Pass};
use tch::{Kind, Tensor};

fn run(model: &Model, batch: usize, prefill: usize, requests: Vec<Request>) -> Vec<Vec<Sequence>> {
    model
        .engine(Options { max_batch: batch, prefill_tokens: prefill, ..Options::default() })
        .generate(requests)
        .unwrap()
}

#[test]
fn logprobs_equal_a_teacher_forced_pass_in_any_batch() {
    let _alone = alone();
    for arch in Arch::ALL {
        let model = tiny(arch, 1);
        for (max_batch, prefill_tokens, libtorch) in
            [(1, 1, false), (3, 30, false), (64, 8192, false), (1, 1, true), (3, 30, true), (64, 8192, true)]
        {
            let asked = requests(&model, 3);
            let options = Options { max_batch, prefill_tokens, libtorch, ..Options::default() };
            let answers = model.engine(options).generate(asked.clone()).unwrap();
            for (request, samples) in asked.iter().zip(&answers) {
                assert_eq!(samples.len(), 3);
                for s in samples {
                    let want = teacher_forced(&model, &request.prompt, &s.tokens);
                    for (got, want) in s.logprobs.iter().zip(want) {
                        assert!((f64::from(*got) - want).abs() < 2e-5, "{arch:?} {options:?}: {got} {want}");
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
    let mut engine = model.engine(Options { max_batch: 3, ..Options::default() });
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
    let with = |prompt: Vec<u32>, sampling: Sampling| Request { prompt, n: 1, sampling, adapter: None };
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

/// Native kernels against libtorch: the same tokens, log-probabilities up to rounding.
#[test]
fn both_ways_of_calculating_a_step_agree() {
    let _alone = alone();
    for arch in [Arch::Llama, Arch::Qwen2, Arch::Mistral] {
        let model = tiny(arch, 7);
        let answers = |libtorch: bool| {
            let mut engine = model.engine(Options { max_batch: 6, libtorch, ..Options::default() });
            assert_eq!(engine.backend(), if libtorch { "libtorch" } else { "native" });
            engine.generate(requests(&model, 3)).unwrap()
        };
        for (a, b) in answers(false).iter().flatten().zip(answers(true).iter().flatten()) {
            assert_eq!(a.tokens, b.tokens);
            assert!(a.logprobs.iter().zip(&b.logprobs).all(|(x, y)| (x - y).abs() < 2e-5));
        }
    }
}

/// As on a GPU: one row of logits for a prompt with several samples, numbers about the others.
#[test]
fn choosing_next_tokens_where_the_logits_are_changes_none_of_them() {
    let _alone = alone();
    let plain = Sampling::default();
    let samplings = [
        plain.clone(),
        Sampling { temperature: 0.0, ..plain.clone() },
        Sampling { temperature: 0.8, top_p: 0.9, ..plain.clone() },
        Sampling { top_k: 20, min_p: 0.01, ..plain.clone() },
        Sampling { repetition_penalty: 1.2, ..plain },
    ];
    for arch in [Arch::Llama, Arch::Gemma2] {
        let model = tiny(arch, 29);
        let asked: Vec<Request> = requests(&model, 3)
            .into_iter()
            .zip(samplings.clone())
            .map(|(r, s)| Request {
                sampling: Sampling { seed: r.sampling.seed, max_new_tokens: 24, ..s },
                ..r
            })
            .collect();
        let drawn = |max_batch, choose_there| {
            let options = Options { max_batch, libtorch: true, choose_there, ..Options::default() };
            model.engine(options).generate(asked.clone()).unwrap()
        };
        for max_batch in [2, 64] {
            let (host, there) = (drawn(max_batch, false), drawn(max_batch, true));
            for (a, b) in host.iter().flatten().zip(there.iter().flatten()) {
                assert_eq!((&a.tokens, &a.text), (&b.tokens, &b.text), "{arch:?}");
                assert!(a.logprobs.iter().zip(&b.logprobs).all(|(a, b)| (a - b).abs() < 2e-5), "{arch:?}");
            }
        }
    }
}

#[test]
fn prompts_that_begin_alike_share_pages_and_not_a_bit_changes() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 8);
    let system = "You write programs. Read n integers from one line, be brief and careful. ";
    let asked = after(&model, system, &["sum them", "largest", "print(", "sum them all"]);
    let alone: Vec<_> = asked.iter().map(|r| run(&model, 1, 1, vec![r.clone()]).remove(0)).collect();
    let mut engine = model.engine(Options::default());
    // once in one batch, once more when the pages are known, and one after the other
    for turn in 0..3 {
        let before = engine.reused_tokens();
        let together = if turn == 2 {
            asked.iter().map(|r| engine.generate(vec![r.clone()]).unwrap().remove(0)).collect()
        } else {
            engine.generate(asked.clone()).unwrap()
        };
        assert_eq!(together.len(), alone.len());
        for (a, t) in alone.iter().flatten().zip(together.iter().flatten()) {
            assert_eq!((&a.tokens, &a.logprobs), (&t.tokens, &t.logprobs), "turn {turn}");
        }
        let shared = engine.reused_tokens() - before;
        assert!(shared >= 3 * 16, "turn {turn}: {shared} tokens came from pages");
    }
}

/// The same on libtorch, for every architecture: up to rounding, since a shorter pass sums in another order.
#[test]
fn prompts_that_begin_alike_share_pages_on_libtorch_too() {
    let _alone = alone();
    for arch in Arch::ALL {
        let model = tiny(arch, 8);
        let system = "You write programs. Read n integers from one line, be brief and careful. ";
        let asked = after(&model, system, &["sum them", "largest", "print(", "sum them all"]);
        let mut engine = model.engine(Options { libtorch: true, ..Options::default() });
        for turn in 0..2 {
            let before = engine.reused_tokens();
            for (r, samples) in asked.iter().zip(engine.generate(asked.clone()).unwrap()) {
                for s in &samples {
                    let want = teacher_forced(&model, &r.prompt, &s.tokens);
                    assert!(
                        s.logprobs.iter().zip(want).all(|(g, w)| (f64::from(*g) - w).abs() < 2e-5),
                        "{arch:?}"
                    );
                }
            }
            let shared = engine.reused_tokens() - before;
            assert!(shared >= 3 * 16, "{arch:?} turn {turn}: {shared} tokens came from pages");
        }
    }
}

#[test]
fn new_weights_forget_the_pages_of_the_old_ones() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 9);
    let other = tiny(Arch::Llama, 10);
    let asked = after(&model, "Read n integers from one line, be brief and careful. ", &["x", "y"]);
    let mut engine = model.engine(Options::default());
    engine.generate(asked.clone()).unwrap();
    engine.refresh(&other);
    let got = engine.generate(asked.clone()).unwrap();
    let want = run(&other, 64, 8192, asked);
    for (g, w) in got.iter().flatten().zip(want.iter().flatten()) {
        assert_eq!((&g.tokens, &g.logprobs), (&w.tokens, &w.logprobs));
    }
}

#[test]
fn keys_and_values_survive_any_coming_and_going_of_sequences() {
    let _alone = alone();
    let model = tiny(Arch::Qwen2, 11);
    for turn in 0..8u64 {
        // no room for pages that nobody uses: they are handed on at once
        let libtorch = turn >= 4;
        let mut engine =
            model.engine(Options { max_batch: 3, prefix_bytes: 0, libtorch, ..Options::default() });
        engine.generate(requests(&model, 2)).unwrap();
        let mut asked = requests(&model, 3);
        asked.iter_mut().for_each(|r| r.sampling.seed += turn);
        for (r, samples) in asked.iter().zip(engine.generate(asked.clone()).unwrap()) {
            for s in samples {
                let want = teacher_forced(&model, &r.prompt, &s.tokens);
                assert!(s.logprobs.iter().zip(want).all(|(g, w)| (f64::from(*g) - w).abs() < 2e-5));
            }
        }
    }
}

#[test]
fn one_batch_mixes_adapters_and_each_answers_as_a_model_of_its_own() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (base, tuned) = adapters(Arch::Qwen2, dir.path());
    let mut engine = base.engine(Options { max_batch: 7, ..Options::default() });
    engine.add_adapter("first", &dir.path().join("a0"), &base).unwrap();
    engine.add_adapter("second", &dir.path().join("a1"), &base).unwrap();
    assert!(engine.add_adapter("first", &dir.path().join("a1"), &base).is_err());
    let names = [None, Some("first"), Some("second")];
    let mut asked = Vec::new();
    for request in requests(&base, 2) {
        asked.extend(names.map(|name| Request { adapter: name.map(str::to_owned), ..request.clone() }));
    }
    let models = [&base, &tuned[0], &tuned[1]];
    let mut texts = Vec::new();
    for (i, (request, samples)) in asked.iter().zip(engine.generate(asked.clone()).unwrap()).enumerate() {
        for s in &samples {
            let want = teacher_forced(models[i % 3], &request.prompt, &s.tokens);
            for (got, want) in s.logprobs.iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < 5e-5, "{:?}: {got} {want}", request.adapter);
            }
        }
        texts.push(samples[1].tokens.clone());
    }
    assert!(texts[12] != texts[13] && texts[13] != texts[14], "the adapters change nothing: {texts:?}");
    let unknown = Request { adapter: Some("third".into()), ..asked[0].clone() };
    assert!(engine.add(unknown).unwrap_err().to_string().contains("third"));
}

/// First tokens of 4000 samples against the softmax of a teacher-forced pass, on a prompt whose beginning comes from pages.
#[test]
fn draws_after_shared_pages_and_under_adapters_follow_the_softmax() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (base, tuned) = adapters(Arch::Qwen2, dir.path());
    let mut engine = base.engine(Options::default());
    engine.add_adapter("first", &dir.path().join("a0"), &base).unwrap();
    for (model, adapter) in [(&base, None), (&tuned[0], Some("first".to_owned()))] {
        let mut asked = after(&base, "Read n integers from one line, be brief. ", &["first", "sum them"]);
        asked.iter_mut().for_each(|r| r.adapter.clone_from(&adapter));
        engine.generate(vec![asked.remove(0)]).unwrap();
        let (before, draws) = (engine.reused_tokens(), 4000u32);
        let mut request = asked.remove(0);
        (request.n, request.sampling.max_new_tokens) = (draws, 1);
        let ids: Vec<i64> = request.prompt.iter().map(|&t| i64::from(t)).collect();
        let samples = engine.generate(vec![request]).unwrap().remove(0);
        assert!(engine.reused_tokens() - before >= 16);
        let _guard = tch::no_grad_guard();
        let h = model.decoder.trunk(&Tensor::from_slice(&ids).unsqueeze(0), None, Pass::EVAL).unwrap();
        let last = model.decoder.logits(&h).get(ids.len() as i64 - 1).softmax(-1, Kind::Double);
        let p = Vec::<f64>::try_from(last).unwrap();
        // 30 groups of ten neighbouring tokens: 29 degrees of freedom
        let mut counts = [0f64; 30];
        samples.iter().for_each(|s| counts[s.tokens[0] as usize / 10] += 1.0);
        let chi: f64 = counts
            .iter()
            .zip(p.chunks(10))
            .map(|(n, p)| {
                let want = f64::from(draws) * p.iter().sum::<f64>();
                (n - want).powi(2) / want
            })
            .sum();
        assert!(chi < 58.3, "{adapter:?}: chi-square {chi} exceeds the 0.999 quantile of 29 degrees");
    }
}
