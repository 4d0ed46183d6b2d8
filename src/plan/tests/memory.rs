//! Predicted memory: shown, and refused with the line and what to change.

use plan::outside::{AsWritten, Found, Missing, Outside};
use plan::{Graph, Options, load_with};
use serde_json::json;

/// A Hub that has one model: DeepSeek-Coder's 6.7B or 1.3B shape by its name.
struct Hub;

impl Outside for Hub {
    fn find(&self, text: &str) -> Result<Found, Missing> {
        let found = AsWritten.find(text)?;
        let (hidden, intermediate, layers, heads) =
            if text.contains("6.7b") { (4096, 11_008, 32, 32) } else { (2048, 5504, 24, 16) };
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 32_256, "hidden_size": hidden,
            "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
            "max_position_embeddings": 16_384, "tie_word_embeddings": false,
        });
        Ok(Found { config: Some(config), ..found })
    }
}

fn job(model: &str, params: &str, resources: &str) -> String {
    format!(
        "bessemer: 1\nname: m\nphases:\n  tune:\n    kind: sft\n    inputs: {{model: \"hf://org/{model}\", data: ./rows.jsonl}}\n    params:\n{params}    resources: {{{resources}}}\n"
    )
}

fn planned(text: &str, gpu_memory_mb: Option<u64>) -> Result<Graph, String> {
    let options = Options { gpu_memory_mb, ..Options::default() };
    load_with("j.yaml", text, &options, &Hub)
        .map_err(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

const GPU: &str = "gpus: 1, memory: 30GB";

#[test]
fn what_cannot_fit_a_gpu_is_refused_at_its_line_with_changes_that_do_fit() {
    let params = "      precision: fp16\n      batch: 8\n      accumulation: 2\n";
    let text = job("1.3b", params, GPU);
    let said = planned(&text, Some(16_000)).unwrap_err();
    assert!(said.starts_with("j.yaml:9:7: tune needs "), "{said}");
    assert!(said.contains("the site's GPUs have 16.0 GB") && said.contains("activations"), "{said}");
    assert!(said.contains("any of these fits"), "{said}");
    assert!(said.contains("`batch: 2` with `accumulation: 8`"), "{said}");
    // the advice is true
    let text = job("1.3b", "      precision: fp16\n      batch: 2\n      accumulation: 8\n", GPU);
    planned(&text, Some(16_000)).unwrap();
    // a site that does not say what its GPUs have refuses nothing
    planned(&job("1.3b", params, GPU), None).unwrap();
}

#[test]
fn where_one_change_is_not_enough_several_are_named_together() {
    let said = planned(&job("6.7b", "      batch: 4\n", GPU), Some(32_000)).unwrap_err();
    assert!(said.contains("together these fit") || said.contains("any of these fits"), "{said}");
    let said = planned(&job("6.7b", "      batch: 1\n", GPU), Some(4_000)).unwrap_err();
    assert!(said.contains("a smaller model, or a larger GPU"), "{said}");
}

#[test]
fn without_a_gpu_the_tasks_memory_counts_and_raising_it_is_the_first_advice() {
    let said =
        planned(&job("1.3b", "      batch: 1\n      max_tokens: 64\n", "memory: 4GB"), None).unwrap_err();
    assert!(said.contains("j.yaml:10:17: "), "{said}");
    assert!(said.contains("the task's `memory` is 4.00 GB") && said.contains("`memory: "), "{said}");
    let graph =
        planned(&job("1.3b", "      batch: 1\n      max_tokens: 64\n", "memory: 40GB"), None).unwrap();
    let found = &graph.memory[0].estimate;
    // weights in fp32 are 5.39 GB
    assert!(!found.gpu && found.bytes > 5_390_000_000 && found.bytes < 7_000_000_000, "{found:?}");
    assert_eq!(found.bytes, found.parts.iter().map(|p| p.bytes).sum::<u64>());
    assert!(plan::explain(&graph, None).contains("predicted peak memory"));
}

#[test]
fn a_models_shape_is_handed_on_from_phase_to_phase() {
    let text = "bessemer: 1\nname: m\ndefaults: {resources: {memory: 60GB}}\nphases:\n  corpus: {kind: corpus}\n  base: {kind: base, inputs: {corpus: corpus}}\n  \
        rl: {kind: rl, inputs: {model: base, corpus: corpus}}\n  eval: {kind: eval, inputs: {model: rl, corpus: corpus}}\n";
    let graph = planned(text, None).unwrap();
    let has = |phase: &str| graph.memory.iter().any(|p| p.phase == phase);
    assert!(!has("corpus") && has("base") && has("rl") && has("eval"));
}

/// A job of one task that holds a model: `kind` over `model` with these parameters, on a GPU or with this much memory.
fn task(kind: &str, model: &str, params: &[(String, String)], resources: &str) -> String {
    let data = if kind == "sft" { ", data: ./rows.jsonl" } else { ", corpus: corpus" };
    let data = if kind == "serve" { "" } else { data };
    // a service has a user
    let user = if kind == "serve" {
        "  user: {kind: command, params: {argv: [\"true\"]}, services: {model: work}}\n"
    } else {
        ""
    };
    let params: String = params.iter().map(|(k, v)| format!("      {k}: {v}\n")).collect();
    format!(
        "bessemer: 1\nname: m\nphases:\n  corpus: {{kind: corpus}}\n  work:\n    kind: {kind}\n    inputs: {{model: \"hf://org/{model}\"{data}}}\n    params:\n{params}    resources: {{{resources}}}\n{user}"
    )
}

/// The changes that a refusal offers: of each alternative the parameters, as they are to be typed.
fn offered(said: &str) -> Vec<Vec<(String, String)>> {
    let (_, advice) = said
        .split_once("these fits: ")
        .or_else(|| said.split_once("together these fit: "))
        .unwrap_or(("", ""));
    let settings = |text: &str| -> Vec<(String, String)> {
        let typed = text.split('`').skip(1).step_by(2);
        typed.filter_map(|t| t.split_once(": ")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    advice.split(", or ").map(settings).filter(|s| !s.is_empty()).collect()
}

/// Parameters with some of them replaced.
fn replaced(params: &[(String, String)], by: &[(String, String)]) -> Vec<(String, String)> {
    let kept = params.iter().filter(|(k, _)| by.iter().all(|(b, _)| b != k));
    kept.chain(by).cloned().collect()
}

fn pairs(params: &[(&str, &str)]) -> Vec<(String, String)> {
    params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn what_a_refusal_offers_fits_when_it_is_typed() {
    let gpu = Some(16_000);
    /// Kind, model, parameters, the keys that are offered.
    type Case =
        (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let cases: [Case; 14] = [
        ("serve", "1.3b", &[], &["kv_bytes", "max_batch"]),
        ("serve", "1.3b", &[("max_batch", "256"), ("precision", "bf16")], &["kv_bytes", "max_batch"]),
        ("serve", "6.7b", &[("max_batch", "1")], &["quantization"]),
        ("serve", "6.7b", &[("max_batch", "1"), ("precision", "fp16")], &["kv_bytes", "quantization"]),
        ("serve", "6.7b", &[("max_batch", "32")], &["kv_bytes", "precision"]),
        ("eval", "1.3b", &[("max_new_tokens", "1024")], &["kv_bytes", "max_batch"]),
        ("eval", "6.7b", &[("samples", "16"), ("max_new_tokens", "1024")], &["kv_bytes", "precision"]),
        (
            "rl",
            "1.3b",
            &[("precision", "fp16"), ("minibatch", "2"), ("max_new_tokens", "512")],
            &["kv_bytes", "max_batch"],
        ),
        ("rl", "1.3b", &[("algorithm", "grpo"), ("max_new_tokens", "512")], &["minibatch", "recompute"]),
        (
            "rl",
            "1.3b",
            &[
                ("algorithm", "grpo"),
                ("precision", "fp16"),
                ("recompute", "true"),
                ("minibatch", "16"),
                ("max_new_tokens", "2048"),
            ],
            // fewer prompts than a minibatch has rollouts
            &["prompts", "minibatch"],
        ),
        ("rl", "1.3b", &[("lora", "null"), ("max_new_tokens", "512")], &["recompute", "precision"]),
        ("rl", "6.7b", &[("lora", "null"), ("max_new_tokens", "512")], &["lora"]),
        ("rl", "6.7b", &[("precision", "fp16")], &["quantization", "minibatch"]),
        ("sft", "6.7b", &[("precision", "fp16")], &["quantization"]),
    ];
    for (kind, model, params, wanted) in cases {
        let params = pairs(params);
        let said = planned(&task(kind, model, &params, GPU), gpu).unwrap_err();
        let offers = offered(&said);
        assert!(!offers.is_empty(), "{kind} {model} {params:?}: {said}");
        for key in wanted {
            assert!(
                offers.iter().flatten().any(|(k, _)| k == key),
                "{key} for {kind} {model} {params:?}: {said}"
            );
        }
        for offer in &offers {
            // an adapter is offered in words
            let offer: Vec<_> = offer.iter().filter(|(k, _)| k != "memory").cloned().collect();
            let typed = task(kind, model, &replaced(&params, &offer), GPU);
            let graph = planned(&typed, gpu).unwrap_or_else(|e| panic!("{said}\n{offer:?}: {e}"));
            assert!(graph.memory.iter().any(|m| m.phase == "work" && m.estimate.megabytes() <= 16_000));
        }
    }
}

#[test]
fn without_a_gpu_what_is_offered_fits_too_and_memory_is_raised_first() {
    for (kind, params) in
        [("serve", &[][..]), ("eval", &[("samples", "4")]), ("rl", &[("max_new_tokens", "256")])]
    {
        let params = pairs(params);
        let said = planned(&task(kind, "1.3b", &params, "memory: 12GB"), None).unwrap_err();
        let offers = offered(&said);
        assert_eq!(offers.first().and_then(|o| o.first()).map(|(k, _)| k.as_str()), Some("memory"), "{said}");
        for offer in &offers {
            let text = match &offer[0] {
                (key, amount) if key == "memory" => task(kind, "1.3b", &params, &format!("memory: {amount}")),
                _ => task(kind, "1.3b", &replaced(&params, offer), "memory: 12GB"),
            };
            planned(&text, None).unwrap_or_else(|e| panic!("{said}\n{offer:?}: {e}"));
        }
    }
}

/// The prediction for phase `work`, and one of its parts.
fn predicted(kind: &str, params: &[(&str, &str)], resources: &str) -> plan::memory::Estimate {
    let graph = planned(&task(kind, "1.3b", &pairs(params), resources), None).unwrap();
    graph.memory.into_iter().find(|m| m.phase == "work").unwrap().estimate
}

fn part(estimate: &plan::memory::Estimate, name: &str) -> u64 {
    estimate.parts.iter().find(|p| p.name == name).map_or(0, |p| p.bytes)
}

#[test]
fn precision_and_limits_of_generation_enter_the_prediction() {
    let cpu = "memory: 200GB";
    for resources in [GPU, cpu] {
        let on_gpu = resources == GPU;
        for kind in ["serve", "eval"] {
            let whole = predicted(kind, &[], resources);
            let half = predicted(kind, &[("precision", "bf16")], resources);
            assert_eq!(part(&whole, "weights"), 2 * part(&half, "weights"), "{kind}");
            // our kernels on a CPU hold fp32 pages for bf16 weights too
            let (all, less) = (part(&whole, "KV cache"), part(&half, "KV cache"));
            assert!(if on_gpu { 10 * all > 19 * less } else { all == less }, "{kind}: {all} {less}");
            let packed = predicted(kind, &[("precision", "fp16"), ("quantization", "nf4")], resources);
            assert!(3 * part(&packed, "weights") < part(&half, "weights") * 2, "{kind}");
            let narrow = predicted(kind, &[("max_batch", "4")], resources);
            assert!(narrow.bytes < whole.bytes, "{kind}");
        }
        for kind in ["serve", "eval"] {
            let params = [("kv_bytes", "10000000000"), ("max_new_tokens", "1024")];
            let cache = part(&predicted(kind, &params, resources), "KV cache");
            // libtorch has one layer of 24 twice for a moment
            let twice = if on_gpu { 10_000_000_000 / 24 } else { 0 };
            assert_eq!(cache, 10_000_000_000 + twice, "{kind}");
        }
    }
    let half = predicted("serve", &[("precision", "bf16")], cpu);
    let halves = predicted("serve", &[("precision", "bf16"), ("kv_precision", "bf16")], cpu);
    assert!(part(&halves, "KV cache") < part(&half, "KV cache") * 2 / 3);
    // a long prompt is run at once where nobody reads along, in any case up to 8192 tokens
    let usual = predicted("serve", &[], GPU);
    let larger = predicted("serve", &[("prefill_chunk", "16384")], GPU);
    assert!(part(&larger, "generation") > part(&usual, "generation"));
}

#[test]
fn a_model_that_is_packed_beside_what_was_loaded_needs_both_for_a_moment() {
    let found = predicted("serve", &[("max_batch", "1"), ("max_new_tokens", "16")], "memory: 200GB");
    // 1.35 G weights, 1.28 G of them in products
    assert!(part(&found, "packed weights") > 5_100_000_000 && found.bytes > 10_500_000_000, "{found:?}");
    let found = predicted("serve", &[("max_batch", "1"), ("max_new_tokens", "16")], GPU);
    assert_eq!(part(&found, "packed weights"), 0);
}

#[test]
fn a_limit_that_no_answer_fits_is_refused_at_its_line() {
    // a token's keys and values in fp32: 24 layers x 2 x 2048 x 4 bytes
    let token = 24 * 2 * 2048 * 4;
    let with = |bytes: u64| {
        let params = pairs(&[("max_new_tokens", "100"), ("kv_bytes", &bytes.to_string())]);
        planned(&task("serve", "1.3b", &params, GPU), Some(16_000))
    };
    // one token of a prompt and 100: seven pages
    let said = with(7 * 16 * token - 1).unwrap_err();
    assert!(said.starts_with("j.yaml:10:7: `kv_bytes`: "), "{said}");
    assert!(said.contains(&(7 * 16 * token).to_string()) && said.contains("max_new_tokens"), "{said}");
    with(7 * 16 * token).unwrap();
    let params = pairs(&[("kv_precision", "bf16")]);
    let said = planned(&task("serve", "1.3b", &params, GPU), None).unwrap_err();
    assert!(said.contains("`kv_precision`") && said.contains("`precision: bf16`"), "{said}");
}
