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
