//! The exported JSON Schema agrees with the planner: what loads validates, what is mistyped does not.

use plan::{Options, load, schema};
use serde_json::{Value, json};

const QUICKSTART: &str = include_str!("../../../jobs/quickstart.yaml");
const DOC: &str = include_str!("../../../docs/JOBFILE.md");

fn validator() -> jsonschema::Validator {
    let schema = schema();
    jsonschema::meta::validate(&schema).expect("the schema is itself valid");
    jsonschema::validator_for(&schema).expect("the schema compiles")
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

fn problems(document: &Value) -> Vec<String> {
    validator().iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

#[test]
fn the_quickstart_validates() {
    assert_eq!(problems(&yaml(QUICKSTART)), [""; 0]);
}

/// Every feature of the job file in one place.
const RICH: &str = r#"
bessemer: 1
name: rich
matrix: {v: [a, b], seed: [1, 2], gpus: [0, 1], split: [train, validation]}
defaults:
  resources: {cpus: 2, memory: 16GiB, walltime: 1h30m}
  retry: {error: 3, preempted: unlimited, oom_factor: 2, oom_cap: 100GB, backoff: 1m, backoff_max: 01:00:00}
  extra: [--account=x]
  estimate: 20m
  margin: 2m
  kinds:
    rl: {params: {lora: {r: 4}}, resources: {gpus: "${gpus}"}}
phases:
  corpus: {kind: corpus, params: }
  base: {kind: base, inputs: {corpus: corpus}}
  judge: {kind: serve, inputs: {model: base}}
  sample: {kind: sample, inputs: {corpus: corpus}, services: {generator: {phase: judge}}, params: {split: "${split}"}}
  sft: {kind: sft, inputs: {model: base, data: [sample, {phase: sample, at: {split: train}}]}, params: {lora: null}}
  rl:
    kind: rl
    inputs: {model: sft, corpus: corpus}
    params: {seed: "${seed}", reward: binary}
    variants:
      - when: {v: b, seed: [1, 2]}
        params: {reward: partial-credit, lora: {alpha: "${seed}"}}
        inputs: {model: {phase: rl, at: {v: a}}}
        extra: ["--comment=${v}"]
  pick:
    kind: command
    matrix: {top: [1, 3]}
    inputs: {all: {phase: rl, at: {v: "*", seed: "*", gpus: "*", split: "*"}}}
    params: {argv: [pick, "${top}"], env: {N: "${top}"}}
budget: {tasks: 1000, gpu_hours: 1000.5}
profiles:
  quick:
    matrix: {seed: [1]}
    phases: {rl: {params: {episodes: 1}, resources: {walltime: 10m}}}
"#;

#[test]
fn everything_that_the_planner_accepts_validates() {
    for profile in [None, Some("quick".to_owned())] {
        let options = Options { profile, ..Options::default() };
        if let Err(found) = load("rich", RICH, &options) {
            panic!("{}", found.iter().map(|m| format!("{m}\n")).collect::<String>());
        }
    }
    assert_eq!(problems(&yaml(RICH)), [""; 0]);
}

#[test]
fn what_the_planner_refuses_for_its_shape_the_schema_refuses_too() {
    for (right, wrong) in [
        ("bessemer: 1", "bessemer: 2"),
        ("name: rich", "name: ri ch"),
        ("cpus: 2", "cpus: 0"),
        ("cpus: 2", "cpu: 2"),
        ("memory: 16GiB", "memory: 16G"),
        ("walltime: 1h30m", "walltime: 90"),
        ("walltime: 1h30m", "walltime: 30mn"),
        ("preempted: unlimited", "preempted: never"),
        ("kind: serve", "kind: server"),
        ("{r: 4}", "{rank: 4}"),
        ("reward: binary", "reward: ternary"),
        ("reward: partial-credit", "reward: partial"),
        ("phase: judge", "phases: judge"),
        ("argv: [pick", "args: [pick"),
        ("tasks: 1000", "tasks: many"),
        ("walltime: 10m", "wallclock: 10m"),
        ("seed: [1]", "seed: 1"),
        ("      - when: {v: b, seed: [1, 2]}\n        params", "      - params"),
    ] {
        let text = RICH.replacen(right, wrong, 1);
        assert_ne!(text, RICH, "{right}");
        assert!(load("j", &text, &Options::default()).is_err(), "the planner accepts {wrong}");
        assert_ne!(problems(&yaml(&text)), [""; 0], "the schema accepts {wrong}");
    }
}

#[test]
fn editors_are_told_what_each_parameter_means() {
    let schema = schema();
    let rl = &schema["$defs"]["RlParams"]["properties"];
    assert_eq!(rl["minibatch"]["description"], json!("Rollouts per optimizer step."));
    assert_eq!(rl["learning_rate"]["default"], json!(plan_default_rate()));
    let kinds: Vec<&str> = schema["$defs"]["phase"]["allOf"]
        .as_array()
        .expect("one condition per kind")
        .iter()
        .filter_map(|c| c["if"]["properties"]["kind"]["const"].as_str())
        .collect();
    assert_eq!(kinds, record::Kind::ALL.map(record::Kind::name));
}

fn plan_default_rate() -> f64 {
    record::params::RlParams::default().learning_rate
}

#[test]
fn the_user_documentation_names_every_key() {
    let schema = schema();
    let mut missing = Vec::new();
    let mut keys = |place: &str, node: &Value| {
        for key in node["properties"].as_object().expect(place).keys() {
            if !DOC.contains(&format!("`{key}`")) {
                missing.push(format!("{place}.{key}"));
            }
        }
    };
    keys("top", &schema);
    keys("defaults", &schema["properties"]["defaults"]);
    for def in ["phase", "resources", "retry", "budget", "source"] {
        keys(def, &schema["$defs"][def]);
    }
    for kind in ["Corpus", "Base", "Serve", "Sample", "Sft", "Rl", "Eval", "Command", "Lora"] {
        keys(kind, &schema["$defs"][&format!("{kind}Params")]);
    }
    assert!(missing.is_empty(), "docs/JOBFILE.md does not explain {missing:?}");
}
