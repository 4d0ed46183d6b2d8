//! Prompts in pieces, adapters on libtorch, and a limit on keys and values.

mod common;

use common::{adapters, after, alone, requests, teacher_forced, tiny};
use generate::{Engine, Finish, Request, Sampling, SeqId, Sequence, StepEvent};
use model::config::Arch;
use model::{Model, Options, TorchEngine};
use record::params::Precision;
use std::collections::HashMap;

/// Steps to the end; what each step brought, and every sequence.
fn steps(engine: &mut TorchEngine) -> (Vec<Vec<StepEvent>>, HashMap<SeqId, Sequence>) {
    let (mut all, mut done) = (Vec::new(), HashMap::new());
    while engine.pending() > 0 {
        let events = engine.step().unwrap();
        for event in &events {
            if let StepEvent::Done(s) = event {
                done.insert(s.id, s.clone());
            }
        }
        all.push(events);
    }
    (all, done)
}

fn tokens_of(events: &[StepEvent], wanted: SeqId) -> usize {
    events.iter().filter(|e| matches!(e, StepEvent::Token { id, .. } if *id == wanted)).count()
}

/// A prompt of `length` tokens that begins like no other.
fn prompt(length: u32, seed: u32) -> Vec<u32> {
    (0..length).map(|i| 3 + (i * 37 + seed * 101) % 290).collect()
}

fn request(prompt: Vec<u32>, n: u32, max_new_tokens: u32) -> Request {
    Request {
        prompt,
        n,
        adapter: None,
        sampling: Sampling { seed: 9, max_new_tokens, ..Sampling::default() },
    }
}

fn close(model: &Model, asked: &Request, got: &Sequence) {
    let want = teacher_forced(model, &asked.prompt, &got.tokens);
    for (g, w) in got.logprobs.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() < 2e-5, "{g} {w}");
    }
}

#[test]
fn a_long_prompt_runs_in_pieces_between_which_running_sequences_get_their_tokens() {
    let _alone = alone();
    for (arch, libtorch) in [(Arch::Llama, false), (Arch::Llama, true), (Arch::Gemma2, true)] {
        let model = tiny(arch, 21);
        let (short, long) = (request(prompt(5, 1), 1, 40), request(prompt(61, 2), 2, 6));
        let whole = |r: &Request| {
            let mut engine = model.engine(Options { libtorch, ..Options::default() });
            engine.generate(vec![r.clone()]).unwrap().remove(0)
        };
        let mut engine =
            model.engine(Options { piece_tokens: 8, prefill_tokens: 8, libtorch, ..Options::default() });
        let first = engine.add(short.clone()).unwrap()[0];
        assert_eq!(tokens_of(&engine.step().unwrap(), first), 1);
        let late = engine.add(long.clone()).unwrap();
        let (events, done) = steps(&mut engine);
        // 61 tokens are eight pieces; the last one brings the first token of both samples
        for (step, events) in events.iter().take(8).enumerate() {
            assert_eq!(tokens_of(events, first), 1, "step {step}: the running sequence waits");
            let begun = late.iter().map(|id| tokens_of(events, *id)).sum::<usize>();
            assert_eq!(begun, if step == 7 { 2 } else { 0 }, "step {step}");
        }
        for (id, asked, k) in [(first, &short, 0), (late[0], &long, 0), (late[1], &long, 1)] {
            let (got, want) = (&done[&id], &whole(asked)[k]);
            assert_eq!(got.tokens, want.tokens);
            if libtorch {
                close(&model, asked, got);
            } else {
                assert_eq!(got.logprobs, want.logprobs, "pieces change no bit");
            }
        }
    }
}

/// Rows of very different lengths, prompts longer than what attends at once, beginnings in pages: the numbers of one pass
/// over the whole text.
#[test]
fn short_and_very_long_texts_in_one_step_do_not_disturb_each_other() {
    let _alone = alone();
    for arch in Arch::ALL {
        let mut model = tiny(arch, 27);
        model.decoder.config.context = 4096;
        let long = prompt(1500, 4);
        let mut asked = vec![request(long.clone(), 2, 4)];
        asked.extend((0..6).map(|i| request(prompt(5 + 7 * i, 5 + i), 1, 12)));
        asked.push(request([&long[..1100], &prompt(50, 6)[..]].concat(), 1, 4));
        for piece_tokens in [200, 8192] {
            let options =
                Options { libtorch: true, prefill_tokens: 2200, piece_tokens, ..Options::default() };
            let mut engine = model.engine(options);
            let answers = engine.generate(asked.clone()).unwrap();
            assert!(engine.reused_tokens() >= 1088, "{}", engine.reused_tokens());
            for (r, s) in asked.iter().zip(&answers).flat_map(|(r, all)| all.iter().map(move |s| (r, s))) {
                close(&model, r, s);
            }
        }
    }
}

#[test]
fn a_prompt_that_is_cancelled_between_its_pieces_leaves_its_samples_to_go_on_by_themselves() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 22);
    for libtorch in [false, true] {
        let options = Options { piece_tokens: 8, prefill_tokens: 8, libtorch, ..Options::default() };
        let asked = request(prompt(60, 3), 3, 5);
        let want = model.engine(options).generate(vec![asked.clone()]).unwrap().remove(0);
        let mut engine = model.engine(options);
        let ids = engine.add(asked).unwrap();
        for _ in 0..3 {
            assert!(engine.step().unwrap().is_empty(), "the prompt is not over");
        }
        engine.cancel(ids[0]);
        let (events, done) = steps(&mut engine);
        assert!(
            matches!(&events[0][..], [StepEvent::Done(s)] if s.finish == Finish::Cancelled && s.tokens.is_empty())
        );
        assert!(engine.reused_tokens() >= 16, "what was there of the prompt is not run again");
        for k in [1, 2] {
            assert_eq!(done[&ids[k]].tokens, want[k].tokens);
        }
        assert_eq!(engine.cache().pages, 0);
    }
}

#[test]
fn libtorch_mixes_adapters_in_one_batch_over_dense_and_over_packed_weights() {
    let _alone = alone();
    for (arch, packed) in
        [(Arch::Qwen2, false), (Arch::Gemma2, false), (Arch::Starcoder2, false), (Arch::Llama, true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (mut base, mut tuned) = adapters(arch, dir.path());
        if packed {
            base.decoder.quantize().unwrap();
            tuned.iter_mut().for_each(|m| m.decoder.quantize().unwrap());
        }
        let engine = |names: &[&str]| {
            let mut engine = base.engine(Options { max_batch: 7, libtorch: true, ..Options::default() });
            assert_eq!(engine.backend(), "libtorch");
            for name in names {
                engine.add_adapter(name, &dir.path().join(name), &base).unwrap();
            }
            engine
        };
        let mut asked = Vec::new();
        for request in requests(&base, 2) {
            asked.extend(
                [None, Some("a0"), Some("a1")]
                    .map(|name| Request { adapter: name.map(str::to_owned), ..request.clone() }),
            );
        }
        let models = [&base, &tuned[0], &tuned[1]];
        let together = engine(&["a0", "a1"]).generate(asked.clone()).unwrap();
        for (i, (request, samples)) in asked.iter().zip(&together).enumerate() {
            // by itself, under an engine that knows no other adapter
            let names: Vec<&str> = request.adapter.as_deref().into_iter().collect();
            let alone = engine(&names).generate(vec![request.clone()]).unwrap().remove(0);
            for (s, alone) in samples.iter().zip(&alone) {
                assert_eq!(s.tokens, alone.tokens, "{arch:?} {:?}", request.adapter);
                let want = teacher_forced(models[i % 3], &request.prompt, &s.tokens);
                for ((got, alone), want) in s.logprobs.iter().zip(&alone.logprobs).zip(want) {
                    assert!((got - alone).abs() < 2e-5, "{arch:?} {:?}: {got} {alone}", request.adapter);
                    assert!(
                        (f64::from(*got) - want).abs() < 5e-5,
                        "{arch:?} {:?}: {got} {want}",
                        request.adapter
                    );
                }
            }
        }
        assert!(together[12][1].tokens != together[13][1].tokens, "{arch:?}: an adapter changes nothing");
        assert!(together[13][1].tokens != together[14][1].tokens, "{arch:?}: an adapter changes nothing");
    }
}

#[test]
fn under_a_limit_the_youngest_give_their_pages_back_and_nobodys_answer_changes() {
    let _alone = alone();
    for libtorch in [false, true] {
        let model = tiny(Arch::Llama, 23);
        let options = Options { libtorch, prefix_bytes: 0, ..Options::default() };
        let page = model.engine(options).cache().page_bytes;
        // growing from one page to five each, and three samples that share a prompt
        let mut asked: Vec<Request> = (0..5).map(|i| request(prompt(10 + i, i), 1, 60)).collect();
        asked.push(request(prompt(30, 9), 3, 40));
        let free = model.engine(options).generate(asked.clone()).unwrap();
        for (pages, prefix_bytes) in [(8, 0), (11, 0), (11, 1 << 20)] {
            let limited = Options { kv_bytes: Some(pages * page + page / 2), prefix_bytes, ..options };
            let mut engine = model.engine(limited);
            let ids: Vec<Vec<SeqId>> = asked.iter().map(|r| engine.add(r.clone()).unwrap()).collect();
            let (mut streamed, mut done) = (HashMap::new(), HashMap::new());
            while engine.pending() > 0 {
                for event in engine.step().unwrap() {
                    match event {
                        StepEvent::Token { id, text, token, .. } => {
                            let (all, tokens): &mut (String, Vec<u32>) = streamed.entry(id).or_default();
                            *all += &text;
                            tokens.push(token);
                        }
                        StepEvent::Done(s) => drop(done.insert(s.id, s)),
                    }
                }
                let now = engine.cache();
                assert_eq!(now.limit, Some(pages));
                assert!(now.pages + now.kept <= pages, "{now:?}");
            }
            assert!(engine.cache().preemptions > 0, "{pages} pages: nobody had to go, so nothing was tested");
            for ((r, ids), want) in asked.iter().zip(&ids).zip(&free) {
                for (id, want) in ids.iter().zip(want) {
                    let got: &Sequence = &done[id];
                    assert_eq!((&got.tokens, &got.text, got.finish), (&want.tokens, &want.text, want.finish));
                    assert_eq!(streamed[id], (got.text.clone(), got.tokens.clone()), "said once, in order");
                    if libtorch {
                        close(&model, r, got);
                    } else {
                        assert_eq!(got.logprobs, want.logprobs, "{pages} pages");
                    }
                }
            }
        }
    }
}

#[test]
fn what_can_never_fit_is_refused_when_it_is_asked() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 24);
    let page = model.engine(Options::default()).cache().page_bytes;
    let mut engine = model.engine(Options { kv_bytes: Some(2 * page), ..Options::default() });
    let refused = engine.add(request(prompt(20, 1), 1, 13)).unwrap_err().to_string();
    assert!(refused.contains("kv_bytes") && refused.contains(&(3 * page).to_string()), "{refused}");
    let fits = engine.generate(vec![request(prompt(20, 1), 3, 12)]).unwrap().remove(0);
    assert!(fits.iter().all(|s| s.tokens.len() == 12));
    assert_eq!(engine.cache().limit, Some(2));
}

#[test]
fn a_sequence_that_gave_its_pages_back_can_be_cancelled_with_what_it_said() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 25);
    let page = model.engine(Options::default()).cache().page_bytes;
    let mut engine =
        model.engine(Options { kv_bytes: Some(5 * page), prefix_bytes: 0, ..Options::default() });
    let ids: Vec<SeqId> = (0..3).map(|i| engine.add(request(prompt(6, i), 1, 60)).unwrap()[0]).collect();
    let mut said = 0;
    while engine.cache().preemptions == 0 {
        said += tokens_of(&engine.step().unwrap(), ids[2]);
    }
    engine.cancel(ids[2]);
    let (_, done) = steps(&mut engine);
    assert_eq!((done[&ids[2]].finish, done[&ids[2]].tokens.len()), (Finish::Cancelled, said));
    assert!(said > 0 && [0, 1].iter().all(|&i| done[&ids[i]].tokens.len() == 60));
}

/// Half precision pages and windows: near to fp32, and the same with a prompt in pieces and from shared pages.
#[test]
fn libtorch_holds_pages_in_the_models_number_format() {
    let _alone = alone();
    for arch in Arch::ALL {
        let fp32 = tiny(arch, 26);
        let dir = tempfile::tempdir().unwrap();
        fp32.save(dir.path()).unwrap();
        let asked = after(&fp32, "Read n integers from one line. Print ", &["x", "them", "all of them"]);
        for (precision, bound) in [(Precision::Bf16, 0.2), (Precision::Fp16, 0.03)] {
            let model = Model::load(dir.path(), precision, tch::Device::Cpu).unwrap();
            let mut engine =
                model.engine(Options { libtorch: true, prefill_tokens: 19, ..Options::default() });
            let whole = fp32.engine(Options { libtorch: true, ..Options::default() }).cache().page_bytes;
            assert_eq!(2 * engine.cache().page_bytes, whole);
            for (r, samples) in asked.iter().zip(engine.generate(asked.clone()).unwrap()) {
                for s in samples {
                    let want = teacher_forced(&fp32, &r.prompt, &s.tokens);
                    let n = want.len() as f64;
                    let off =
                        s.logprobs.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).sum::<f64>() / n;
                    assert!(off < bound, "{arch:?} {precision:?}: {off}");
                }
            }
            assert!(engine.reused_tokens() >= 2 * 16);
        }
    }
}

#[test]
fn native_pages_in_half_precision_take_half_and_stay_near() {
    let _alone = alone();
    for arch in [Arch::Llama, Arch::Mistral] {
        let dir = tempfile::tempdir().unwrap();
        tiny(arch, 28).save(dir.path()).unwrap();
        let model = Model::load(dir.path(), Precision::Bf16, tch::Device::Cpu).unwrap();
        let with = |half_pages| model.engine(Options { half_pages, ..Options::default() });
        let (mut whole, mut half) = (with(false), with(true));
        assert_eq!((half.backend(), 2 * half.cache().page_bytes), ("native", whole.cache().page_bytes));
        // one token each, so that both have the same past
        let asked: Vec<Request> = (0..6).map(|i| request(prompt(30 + 7 * i, i), 1, 1)).collect();
        let (a, b) = (whole.generate(asked.clone()).unwrap(), half.generate(asked.clone()).unwrap());
        // where both drew the same token
        let same = a.iter().zip(&b).filter(|(a, b)| a[0].tokens == b[0].tokens);
        let off: Vec<f32> = same.map(|(a, b)| (a[0].logprobs[0] - b[0].logprobs[0]).abs()).collect();
        assert!(
            off.len() > 3 && off.iter().all(|d| *d < 0.05) && off.iter().any(|d| *d > 0.0),
            "{arch:?}: {off:?}"
        );
        // and the same bits in any company, as with whole pages
        let again: Vec<_> = asked.iter().map(|r| half.generate(vec![r.clone()]).unwrap().remove(0)).collect();
        assert!(b.iter().zip(&again).all(|(b, again)| b[0].logprobs == again[0].logprobs));
        // fp32 weights keep fp32 pages
        let fp32 = tiny(arch, 28).engine(Options { half_pages: true, ..Options::default() });
        assert_eq!(fp32.cache().page_bytes, whole.cache().page_bytes);
    }
}
