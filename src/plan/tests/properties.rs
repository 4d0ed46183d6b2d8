//! Laws that hold for every job file.

use plan::{Graph, Options, load};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const QUICKSTART: &str = include_str!("../../../jobs/quickstart.yaml");

/// A random layered sweep: phase p<i> reads some earlier phases, some at a fixed point, some parameters are templates.
#[derive(Debug, Clone)]
struct Sweep {
    axes: Vec<usize>,
    phases: Vec<PhaseShape>,
}

#[derive(Debug, Clone)]
struct PhaseShape {
    reads: Vec<(usize, Option<usize>)>,
    mentions: Vec<usize>,
    variant: Option<(usize, usize)>,
}

fn sweep() -> impl Strategy<Value = Sweep> {
    let axes = prop::collection::vec(1usize..4, 1..4);
    axes.prop_flat_map(|axes| {
        let n = axes.len();
        let phase = move |i: usize| {
            let reads = prop::collection::vec((0..i.max(1), prop::option::of(0..n)), 0..(i + 1).min(4));
            let mentions = prop::collection::vec(0..n, 0..3);
            let variant = prop::option::of((0..n, 0usize..4));
            (reads, mentions, variant).prop_map(move |(reads, mentions, variant)| PhaseShape {
                reads: if i == 0 { vec![] } else { reads },
                mentions,
                variant,
            })
        };
        let phases = (1usize..7).prop_flat_map(move |n| (0..n).map(phase).collect::<Vec<_>>());
        (Just(axes), phases).prop_map(|(axes, phases)| Sweep { axes, phases })
    })
}

impl Sweep {
    /// `changed` gets one more parameter.
    fn job(&self, changed: Option<usize>) -> Value {
        let matrix: Map<String, Value> = self
            .axes
            .iter()
            .enumerate()
            .map(|(a, n)| (format!("x{a}"), (0..*n).map(|v| json!(format!("v{v}"))).collect()))
            .collect();
        let phases: Map<String, Value> = self
            .phases
            .iter()
            .enumerate()
            .map(|(i, shape)| {
                let mut inputs = Map::new();
                for (k, (read, pinned)) in shape.reads.iter().enumerate() {
                    let phase = format!("p{read}");
                    let at = pinned.map(|a| json!({format!("x{a}"): "v0"}));
                    inputs.insert(format!("r{k}"), at.map_or(json!(phase), |at| json!({"phase": phase, "at": at})));
                }
                let mut argv = vec![json!(format!("p{i}"))];
                argv.extend(shape.mentions.iter().map(|a| json!(format!("${{x{a}}}"))));
                let mut env = json!({"A": "1", "B": "2"});
                if changed == Some(i) {
                    env["C"] = json!("3");
                }
                let mut phase = json!({"kind": "command", "params": {"argv": argv, "env": env}, "inputs": inputs});
                if let Some((axis, value)) = shape.variant {
                    let value = value % self.axes[axis];
                    phase["variants"] =
                        json!([{"when": {format!("x{axis}"): format!("v{value}")}, "params": {"env": {"B": "9"}}}]);
                }
                (format!("p{i}"), phase)
            })
            .collect();
        json!({"bessemer": 1, "name": "t", "matrix": matrix, "phases": phases})
    }

    /// `p<i>` and everything downstream of it.
    fn affected(&self, i: usize) -> BTreeSet<String> {
        let mut hit = BTreeSet::from([i]);
        for (p, shape) in self.phases.iter().enumerate() {
            if shape.reads.iter().any(|(r, _)| hit.contains(r)) {
                hit.insert(p);
            }
        }
        hit.into_iter().map(|p| format!("p{p}")).collect()
    }
}

fn plan_of(job: &Value) -> Graph {
    match load("j", &job.to_string(), &Options::default()) {
        Ok(graph) => graph,
        Err(found) => panic!("{job:#}\n{found:#?}"),
    }
}

/// Phase -> keys of its tasks.
fn keys(graph: &Graph) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for task in &graph.tasks {
        out.entry(task.phase.clone()).or_default().insert(task.key.to_string());
    }
    out
}

/// The same document with the keys of every mapping in another order.
fn reordered(value: &Value, seed: u64) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map
                .iter()
                .map(|(k, v)| (k.clone(), reordered(v, seed.wrapping_mul(31).wrapping_add(7))))
                .collect();
            let mut state = seed | 1;
            for i in (1..entries.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                entries.swap(i, (state >> 33) as usize % (i + 1));
            }
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => items.iter().map(|v| reordered(v, seed)).collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_keys_decides_nothing(sweep in sweep(), seed in any::<u64>()) {
        let job = sweep.job(None);
        prop_assert_eq!(keys(&plan_of(&job)), keys(&plan_of(&reordered(&job, seed))));
    }

    #[test]
    fn one_changed_parameter_changes_its_phase_and_what_follows_and_nothing_else(sweep in sweep(), pick in any::<prop::sample::Index>()) {
        let i = pick.index(sweep.phases.len());
        let (before, after) = (keys(&plan_of(&sweep.job(None))), keys(&plan_of(&sweep.job(Some(i)))));
        let affected = sweep.affected(i);
        for (phase, old) in &before {
            let new = &after[phase];
            if affected.contains(phase) {
                // by input only some tasks may follow; the changed phase itself changes in every task
                prop_assert_eq!(old.len(), new.len());
                prop_assert!(*phase != format!("p{i}") || old.is_disjoint(new), "{} kept a key", phase);
                prop_assert!(old.is_disjoint(new), "{} reads what changed and kept a key", phase);
            } else {
                prop_assert_eq!(old, new, "{} reads nothing of what changed", phase);
            }
        }
    }

    #[test]
    fn every_point_of_every_phase_is_counted_exactly_once(sweep in sweep()) {
        let graph = plan_of(&sweep.job(None));
        let points: u64 = sweep.axes.iter().map(|&n| n as u64).product();
        let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
        for task in &graph.tasks {
            prop_assert!(task.also.is_empty(), "argv differs from phase to phase");
            *counted.entry(&task.phase).or_default() += task.shared_by;
        }
        for (phase, n) in counted {
            prop_assert_eq!(n, points, "{}", phase);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = load("j", &text, &Options::default());
    }

    #[test]
    fn no_yaml_like_text_panics(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..60)) {
        let _ = load("j", &words.concat(), &Options::default());
    }

    #[test]
    fn no_damage_to_a_good_file_panics(at in any::<prop::sample::Index>(), len in 0usize..40, with in "[\\[\\]{}:,&*!|>'\"$ \n-]{0,4}") {
        let start = at.index(QUICKSTART.len());
        let end = (start + len).min(QUICKSTART.len());
        prop_assume!(QUICKSTART.is_char_boundary(start) && QUICKSTART.is_char_boundary(end));
        let text = format!("{}{with}{}", &QUICKSTART[..start], &QUICKSTART[end..]);
        if let Err(found) = load("j", &text, &Options::default()) {
            prop_assert!(!found.is_empty(), "refused without a reason");
            for mistake in found {
                prop_assert!(mistake.line >= 1 && mistake.line <= text.lines().count() + 1, "{}", mistake);
                prop_assert!(mistake.column >= 1, "{}", mistake);
            }
        }
    }

    #[test]
    fn no_value_of_set_panics(path in "[a-z.]{0,20}", value in "\\PC{0,20}") {
        let options = Options { set: vec![(path, value)], ..Options::default() };
        let _ = load("j", QUICKSTART, &options);
    }
}

/// Pieces of job files, for texts that come further than random characters.
const WORDS: [&str; 44] = [
    "bessemer: 1\n",
    "name: t\n",
    "phases:\n",
    "  a:\n",
    "  b:\n",
    "    kind: corpus\n",
    "    kind: rl\n",
    "    kind: serve\n",
    "    inputs: ",
    "    services: ",
    "    params: ",
    "    resources: ",
    "    matrix: ",
    "    variants:\n",
    "      - when: ",
    "        params: ",
    "matrix: ",
    "defaults: ",
    "profiles: ",
    "budget: ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "x: ",
    "seed: ",
    "1",
    "-1",
    "1e999",
    "${x}",
    "\"${x}\"",
    "${",
    "a",
    "b",
    "{phase: a, at: {x: 1}}",
    "{model: a}",
    "*a ",
    "&a ",
    "<<: ",
    "!!int ",
    "\n",
    "30mn",
    "~",
];
