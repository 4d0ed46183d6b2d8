//! What becomes of a job file: sharing, variants, points, keys, profiles, services.

use plan::{Graph, Options, Task, load};
use record::Params;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const QUICKSTART: &str = include_str!("../../../jobs/quickstart.yaml");

#[track_caller]
fn planned(text: &str, options: &Options) -> Graph {
    match load("j", text, options) {
        Ok(graph) => graph,
        Err(found) => panic!("{}", found.iter().map(|m| format!("{m}\n")).collect::<String>()),
    }
}

#[track_caller]
fn plain(text: &str) -> Graph {
    planned(text, &Options::default())
}

fn of<'a>(graph: &'a Graph, phase: &str) -> Vec<&'a Task> {
    graph.tasks.iter().filter(|t| t.phase == phase).collect()
}

/// Three phases and a matrix of 2 x 2.
const SMALL: &str = r#"
bessemer: 1
name: small
matrix: {v: [a, b], seed: [1, 2]}
phases:
  corpus: {kind: corpus}
  base: {kind: base, inputs: {corpus: corpus}}
  rl:
    kind: rl
    inputs: {model: base, corpus: corpus}
    params: {seed: "${seed}"}
    variants:
      - when: {v: b}
        params: {episodes: 7}
"#;

#[test]
fn every_input_stands_before_its_reader_and_every_key_once() {
    let graph = plain(QUICKSTART);
    let mut seen = BTreeSet::new();
    for task in &graph.tasks {
        for (role, need) in task.needs() {
            assert!(seen.contains(&need.key), "{} needs {role} before it is there", task.title());
        }
        assert!(seen.insert(&task.key), "{} twice", task.key);
    }
}

#[test]
fn the_quickstart_has_the_shape_that_its_comments_promise() {
    let graph = plain(QUICKSTART);
    let count = |phase| of(&graph, phase).len();
    assert_eq!(["corpus", "base", "judge", "sample", "sft"].map(count), [1; 5]);
    assert_eq!((count("rl"), count("eval")), (6, 8));
    let sft = &of(&graph, "sft")[0].key;
    let rl: BTreeMap<(String, i64), &Task> = of(&graph, "rl")
        .into_iter()
        .map(|t| ((plan::plain(&t.labels["variant"]), t.labels["seed"].as_i64().unwrap()), t))
        .collect();
    for seed in [1, 2] {
        let binary = rl[&("binary".to_owned(), seed)];
        let continued = rl[&("continued".to_owned(), seed)];
        assert_eq!(binary.inputs["model"][0].key, *sft);
        assert_eq!(continued.inputs["model"][0].key, binary.key);
        let Params::Rl(params) = &continued.work else { panic!("{:?}", continued.work) };
        assert_eq!(params.seed, seed as u64);
    }
    let judge = of(&graph, "judge")[0];
    let sample = of(&graph, "sample")[0];
    assert_eq!(judge.consumers, std::slice::from_ref(&sample.key));
    assert_eq!(sample.services["generator"].key, judge.key);
}

#[test]
fn every_profile_of_the_quickstart_loads() {
    let graph = planned(QUICKSTART, &Options { profile: Some("rehearse".into()), ..Options::default() });
    assert_eq!(graph.tasks.len(), plain(QUICKSTART).tasks.len());
    let Params::Rl(params) = &of(&graph, "rl")[0].work else { panic!() };
    assert!(params.episodes < 5, "{}", params.episodes);
}

#[test]
fn points_that_need_the_same_share_one_task() {
    let graph = plain(SMALL);
    let base = of(&graph, "base");
    assert_eq!((base.len(), base[0].shared_by), (1, 4));
    assert!(base[0].labels.is_empty() && base[0].points.is_empty());
    let rl = of(&graph, "rl");
    assert_eq!(rl.len(), 4);
    assert!(rl.iter().all(|t| t.shared_by == 1 && t.labels.len() == 2));
}

#[test]
fn variants_that_come_out_equal_are_one_task_with_all_its_points() {
    let text = SMALL.replace("params: {episodes: 7}", "params: {episodes: 30}");
    let graph = plain(&text);
    let rl = of(&graph, "rl");
    assert_eq!(rl.len(), 2, "30 episodes is the default");
    assert_eq!(rl[0].labels, BTreeMap::from([("seed".to_owned(), json!(1))]));
    let points: Vec<String> = rl[0].points.iter().map(|p| json!(p).to_string()).collect();
    assert_eq!(points, [r#"{"seed":1,"v":"a"}"#, r#"{"seed":1,"v":"b"}"#]);
    assert_eq!(rl[0].shared_by, 2);
}

#[test]
fn a_single_valued_axis_that_decides_nothing_is_no_label() {
    let graph = plain(&QUICKSTART.replace("seed: [1, 2]", "seed: [1]"));
    for task in of(&graph, "eval") {
        let expected: &[&str] =
            if task.labels["of"] == json!("rl") { &["of", "seed", "variant"] } else { &["of"] };
        assert_eq!(task.labels.keys().collect::<Vec<_>>(), expected, "{}", task.title());
    }
}

#[test]
fn a_default_spelled_out_changes_no_key_and_resources_do_not_either() {
    let keys = |text: &str| plain(text).tasks.into_iter().map(|t| t.key).collect::<Vec<_>>();
    let usual = keys(SMALL);
    assert_eq!(usual, keys(&SMALL.replace("kind: rl", "kind: rl\n    resources: {gpus: 1, walltime: 9h}")));
    assert_eq!(
        usual,
        keys(&SMALL.replace("kind: rl", "kind: rl\n    extra: [--qos=x]\n    retry: {error: 5}"))
    );
    assert_eq!(usual, keys(&SMALL.replace("seed: \"${seed}\"", "seed: \"${seed}\", clip: 0.2, gamma: 1")));
    assert_ne!(usual, keys(&SMALL.replace("seed: \"${seed}\"", "seed: \"${seed}\", clip: 0.3")));
}

#[test]
fn defaults_kinds_phase_and_variants_override_in_this_order() {
    let text = r#"
bessemer: 1
name: t
matrix: {v: [a, b, c]}
defaults:
  resources: {cpus: 2, memory: 4GB}
  extra: [--d]
  retry: {error: 9}
  kinds:
    corpus: {params: {train: 10, tests: 3}, resources: {memory: 5GB}, extra: [--k], estimate: 5m}
phases:
  c:
    kind: corpus
    params: {train: 20}
    resources: {walltime: 2h}
    extra: [--p]
    margin: 90s
    variants:
      - when: {v: [b, c]}
        params: {train: 30}
        extra: ["--v=${v}"]
      - when: {v: c}
        params: {held_out: 40}
        resources: {cpus: 8}
        retry: {preempted: 3, oom_cap: 9GB}
"#;
    let graph = plain(text);
    let tasks = of(&graph, "c");
    let params: Vec<_> = tasks
        .iter()
        .map(|t| match &t.work {
            Params::Corpus(p) => (p.train, p.held_out, p.tests),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(params, [(20, 120, 3), (30, 120, 3), (30, 40, 3)]);
    assert_eq!(tasks[0].extra, ["--d", "--k", "--p"]);
    assert_eq!(tasks[2].extra, ["--d", "--k", "--p", "--v=c"]);
    let r = &tasks[2].resources;
    assert_eq!((r.cpus, r.memory_mb, r.walltime_s, tasks[2].margin_s), (8, 5000, 7200, 90));
    assert_eq!(tasks[2].estimate_s, Some(300));
    assert_eq!(
        (tasks[2].retry.error, tasks[2].retry.preempted, tasks[2].retry.oom_cap_mb),
        (9, Some(3), 9000)
    );
    assert_eq!(tasks[1].retry.preempted, None);
}

#[test]
fn a_shared_task_gets_what_its_most_demanding_point_asks() {
    let text = SMALL.replace(
        "base: {kind: base, inputs: {corpus: corpus}}",
        "base: {kind: base, inputs: {corpus: corpus}, variants: [{when: {v: b}, resources: {memory: 9GB}}]}",
    );
    let graph = plain(&text);
    let base = of(&graph, "base");
    assert_eq!((base.len(), base[0].resources.memory_mb, base[0].resources.cpus), (1, 9000, 1));
}

#[test]
fn one_role_can_gather_the_points_of_another_phase() {
    let text = format!(
        "{SMALL}  best:
    kind: command
    params: {{argv: [pick]}}
    inputs: {{all: {{phase: rl, at: {{v: [b, a], seed: \"*\"}}}}, one: {{phase: rl, at: {{v: a, seed: 2}}}}, \"from_${{v}}\": base}}
"
    );
    let graph = plain(&text);
    let best = of(&graph, "best");
    assert_eq!(best.len(), 2, "the role's name depends on v");
    let titles: Vec<String> = best[0].inputs["all"]
        .iter()
        .map(|r| graph.tasks.iter().find(|t| t.key == r.key).unwrap().title())
        .collect();
    assert_eq!(titles, ["rl seed=1 v=b", "rl seed=2 v=b", "rl seed=1 v=a", "rl seed=2 v=a"]);
    assert_eq!(best[0].inputs["one"].len(), 1);
    assert!(best[0].inputs.contains_key("from_a") && best[1].inputs.contains_key("from_b"));
}

#[test]
fn set_and_only_narrow_a_plan() {
    let set = |path: &str, value: &str| (path.to_owned(), value.to_owned());
    let options = Options {
        set: vec![set("matrix.seed", "[7]"), set("phases.rl.params.clip", "0.3"), set("name", "other")],
        only: vec!["rl".into()],
        ..Options::default()
    };
    let graph = planned(QUICKSTART, &options);
    assert_eq!(graph.sweep, "other");
    let phases: BTreeSet<&str> = graph.tasks.iter().map(|t| t.phase.as_str()).collect();
    assert_eq!(phases, ["base", "corpus", "judge", "rl", "sample", "sft"].into());
    for task in of(&graph, "rl") {
        let Params::Rl(params) = &task.work else { panic!() };
        assert_eq!((params.seed, params.clip), (7, 0.3));
    }
    let only = Options { only: vec!["sft".into()], ..Options::default() };
    assert!(of(&planned(QUICKSTART, &only), "rl").is_empty());
}

#[test]
fn set_reaches_into_lists() {
    let set = |path: &str, value: &str| (path.to_owned(), value.to_owned());
    let seeds = |paths: &[(String, String)]| {
        let graph = planned(QUICKSTART, &Options { set: paths.to_vec(), ..Options::default() });
        let seeds: BTreeSet<String> = of(&graph, "rl").iter().map(|t| t.labels["seed"].to_string()).collect();
        seeds.into_iter().collect::<Vec<_>>().join(" ")
    };
    let before = seeds(&[]);
    let (first, second) = before.split_once(' ').expect("two seeds");
    assert_eq!(seeds(&[set("matrix.seed[1]", "7")]), format!("{first} 7"));
    assert_eq!(seeds(&[set("matrix.seed.0", "7"), set("matrix.seed[1]", "8")]), "7 8", "{second} is gone");
    let wrong =
        load("j", QUICKSTART, &Options { set: vec![set("matrix.seed[2]", "7")], ..Options::default() });
    let text = wrong.unwrap_err()[0].to_string();
    assert!(
        text.starts_with(
            "--set matrix.seed[2]=7:1:12: there is no item 2 in this list; it has the items 0 to 1"
        ),
        "{text}"
    );
}

#[test]
fn a_profile_that_drops_axis_values_leaves_conditions_on_them_alone() {
    let text = format!("{SMALL}profiles: {{one: {{matrix: {{v: [a]}}}}}}\n");
    let graph = planned(&text, &Options { profile: Some("one".into()), ..Options::default() });
    assert_eq!(of(&graph, "rl").len(), 2);
}

#[test]
fn changed_services_change_the_key_of_their_users() {
    let judge = "kind: serve\n    inputs: {model: base}";
    let changed = QUICKSTART.replace(judge, &format!("{judge}\n    params: {{max_batch: 3}}"));
    let (a, b) = (plain(QUICKSTART), plain(&changed));
    assert_ne!(changed, QUICKSTART);
    assert_ne!(of(&a, "sample")[0].key, of(&b, "sample")[0].key);
    assert_eq!(of(&a, "base")[0].key, of(&b, "base")[0].key);
}

#[test]
fn two_phases_with_the_same_content_are_one_task() {
    let text = format!("{SMALL}  twin: {{kind: base, inputs: {{corpus: corpus}}}}\n");
    let graph = plain(&text);
    assert!(of(&graph, "twin").is_empty());
    assert_eq!(of(&graph, "base")[0].also, ["twin"]);
}

#[test]
fn an_axis_value_becomes_text_where_text_is_wanted() {
    let text = "bessemer: 1\nname: t\nmatrix: {n: [3, true]}\nphases:\n  run:\n    kind: command\n    params: {argv: [go, \"${n}\"], env: {N: \"${n}\"}}\n    extra: [\"${n}\"]\n";
    let graph = plain(text);
    let Params::Command(params) = &graph.tasks[0].work else { panic!() };
    assert_eq!((params.argv[1].as_str(), params.env["N"].as_str()), ("3", "3"));
    assert_eq!(graph.tasks[1].extra, ["true"]);
    let found = load("j", &text.replace("[go, \"${n}\"]", "[go, 3]"), &Options::default()).unwrap_err();
    assert_eq!(found[0].to_string(), "j:7:25: `argv` must be text, not the number 3; put it into quotes");
}

#[test]
fn a_graph_survives_its_file() {
    let graph = plain(QUICKSTART);
    let text = serde_json::to_string(&graph).unwrap();
    assert_eq!(serde_json::from_str::<Graph>(&text).unwrap(), graph);
}

#[test]
fn totals_count_hours_and_the_longest_chain() {
    let text = SMALL
        .replace("kind: corpus", "kind: corpus, estimate: 30m")
        .replace("kind: rl", "kind: rl\n    resources: {cpus: 4, gpus: 2, walltime: 3h}");
    let totals = plain(&text).totals();
    // corpus 0.5 h, base 1 h, 4 x rl 3 h
    assert_eq!((totals.tasks, totals.hours), (6, 4.5));
    assert_eq!((totals.cpu_hours, totals.gpu_hours), (0.5 + 1.0 + 48.0, 24.0));
}
