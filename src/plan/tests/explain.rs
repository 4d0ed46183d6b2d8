//! The words of `bessemer plan`.

use plan::{Graph, Known, Options, explain, load, task_list, why};
use std::collections::HashMap;

const JOB: &str = r#"
bessemer: 1
name: tiny
matrix: {seed: [1, 2]}
phases:
  corpus: {kind: corpus, estimate: 6m}
  base: {kind: base, inputs: {corpus: corpus}, resources: {cpus: 2}}
  judge: {kind: serve, inputs: {model: base}}
  sample: {kind: sample, inputs: {corpus: corpus}, services: {generator: judge}}
  sft: {kind: sft, inputs: {model: base, data: sample}}
  rl:
    kind: rl
    inputs: {model: sft, corpus: corpus}
    params: {seed: "${seed}"}
    resources: {gpus: 1, memory: 1500MB, walltime: 2h}
  first: {kind: eval, inputs: {model: base, corpus: corpus}}
  last: {kind: eval, inputs: {model: rl, corpus: corpus}}
"#;

fn graph(text: &str) -> Graph {
    load("j", text, &Options::default()).expect("the job file is right")
}

fn all_done(graph: &Graph) -> HashMap<record::ContentKey, Known> {
    graph.tasks.iter().map(|t| (t.key.clone(), Known::Succeeded)).collect()
}

fn reason<'w>(graph: &Graph, why: &'w [plan::Why], title: &str) -> &'w str {
    let i = graph.tasks.iter().position(|t| t.title() == title).expect(title);
    &why[i].reason
}

#[test]
fn the_tree_shows_every_phase_once_with_what_it_costs() {
    let expected = "\
tiny: 10 tasks, matrix seed (2) = 2 points

  seed: 1, 2

phase                    kind    tasks  for points  each                      CPU-h  GPU-h  needs
corpus                   corpus  1      2           1 cpu, 2GB, 6m            0.10   -
└─ base                  base    1      2           2 cpu, 2GB, 1h            2.00   -      corpus: corpus
   ├─ judge              serve   1      2           1 cpu, 2GB, 1h            1.00   -      model: base
   │  └─ sample          sample  1      2           1 cpu, 2GB, 1h            1.00   -      corpus: corpus, generator: judge (service)
   │     └─ sft          sft     1      2           1 cpu, 2GB, 1h            1.00   -      data: sample, model: base
   │        └─ rl        rl      2      2           1 cpu, 1 gpu, 1.5GB, 2h   4.00   4.00   corpus: corpus, model: sft
   │           └─ last   eval    2      2           1 cpu, 2GB, 1h            2.00   -      corpus: corpus, model: rl
   └─ first              eval    1      2           1 cpu, 2GB, 1h            1.00   -      corpus: corpus, model: base

in all  10 tasks, 12.10 CPU-h, 4.00 GPU-h, longest chain 6.10 h (by estimate, else walltime)
";
    let squeezed =
        |s: &str| s.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    let text = explain(&graph(JOB), None);
    // the arithmetic of memory has tests of its own
    let (before, after) =
        text.split_once("\npredicted peak memory").expect("kinds with a model have a prediction");
    let shape = format!("{before}{}", &after[after.find("\n\n").expect("totals follow") + 1..]);
    assert_eq!(squeezed(&shape), squeezed(expected), "\n{text}");
    // columns stand under their heads
    let lines: Vec<&str> = text.lines().filter(|l| l.contains("eval") || l.contains("kind")).collect();
    let column = |l: &str, word: &str| l.find(word).map(|i| l[..i].chars().count());
    assert_eq!(column(lines[0], "kind"), column(lines[1], "eval"));
}

#[test]
fn a_first_plan_runs_everything() {
    let g = graph(JOB);
    let why = why(&g, &HashMap::new(), None);
    assert!(why.iter().all(|w| w.verdict == plan::Verdict::Run && w.reason == "never run"), "{why:?}");
    let text = explain(&g, Some(&why));
    assert!(text.contains("run  rl (all 2)"), "{text}");
}

#[test]
fn a_changed_parameter_is_named_and_what_follows_says_through_which_input() {
    let old = graph(JOB);
    let new = graph(&JOB.replace(
        "params: {seed: \"${seed}\"}",
        "params: {seed: \"${seed}\", learning_rate: 2e-3, lora: {r: 8}}",
    ));
    let why = why(&new, &all_done(&old), Some(&old));
    assert_eq!(
        reason(&new, &why, "rl seed=1"),
        "params.learning_rate changed 0.001 -> 0.002, params.lora.r changed 16 -> 8"
    );
    assert_eq!(reason(&new, &why, "last seed=2"), "input model (rl) changed");
    assert_eq!(reason(&new, &why, "sft"), "reused");
    // nobody who needs the service runs
    assert_eq!(reason(&new, &why, "judge"), "reused");
    let text = explain(&new, Some(&why));
    assert!(text.contains("to do   4 tasks"), "{text}");
    assert!(text.contains("reuse  corpus, base, judge, sample, sft, first"), "{text}");
    assert!(task_list(&new, Some(&why)).contains("input model (rl) changed"));
}

#[test]
fn a_new_axis_a_new_input_and_a_failure_are_told_apart() {
    let old = graph(JOB);
    let wider = graph(&JOB.replace("seed: [1, 2]", "seed: [1, 2, 3]"));
    let why_wider = why(&wider, &all_done(&old), Some(&old));
    assert_eq!(reason(&wider, &why_wider, "rl seed=3"), "never run");
    assert_eq!(reason(&wider, &why_wider, "rl seed=1"), "reused");

    let other = graph(
        &JOB.replace("model: base, data: sample", "model: base, data: corpus")
            .replace("  judge:", "  judge2:")
            .replace("generator: judge", "generator: judge2"),
    );
    let why_other = why(&other, &all_done(&old), Some(&old));
    assert_eq!(reason(&other, &why_other, "sft"), "input data is corpus instead of sample");

    let mut known = all_done(&old);
    let rl = old.tasks.iter().find(|t| t.title() == "rl seed=1").expect("rl");
    known.insert(rl.key.clone(), Known::Failed);
    assert_eq!(reason(&old, &why(&old, &known, Some(&old)), "rl seed=1"), "failed before");

    // "axis added": the same phase had no labels before
    let axis = graph(
        &JOB.replace("seed: [1, 2]", "seed: [1, 2], rate: [1e-4, 1e-3]")
            .replace("seed: \"${seed}\"", "seed: \"${seed}\", learning_rate: \"${rate}\""),
    );
    let why_axis = why(&axis, &all_done(&old), Some(&old));
    assert_eq!(reason(&axis, &why_axis, "rl rate=0.001 seed=1"), "reused");
    assert_eq!(
        reason(&axis, &why_axis, "rl rate=0.0001 seed=1"),
        "params.learning_rate changed 0.001 -> 0.0001"
    );
}

#[test]
fn a_service_runs_again_exactly_when_somebody_needs_it() {
    let g = graph(JOB);
    let mut known = all_done(&g);
    let key = |title: &str| g.tasks.iter().find(|t| t.title() == title).expect("is there").key.clone();
    known.remove(&key("sample"));
    assert_eq!(reason(&g, &why(&g, &known, None), "judge"), "1 task needs it again");
    known.insert(key("sample"), Known::Succeeded);
    known.remove(&key("judge"));
    assert_eq!(reason(&g, &why(&g, &known, None), "judge"), "nobody needs it any more");
}
