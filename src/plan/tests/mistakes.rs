//! Every mistake has a place, says what is allowed, and hides no other mistake.

use plan::{Options, load};

fn mistakes_with(text: &str, options: &Options) -> Vec<String> {
    match load("j", text, options) {
        Ok(graph) => panic!("{} tasks planned from a wrong job file", graph.tasks.len()),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

fn mistakes(text: &str) -> Vec<String> {
    mistakes_with(text, &Options::default())
}

/// A valid beginning; the tests append what is wrong. Two lines.
const HEAD: &str = "bessemer: 1\nname: t\n";

/// Corpus and base phases, four lines.
const TWO: &str = "phases:\n  corpus: {kind: corpus}\n  base: {kind: base, inputs: {corpus: corpus}}\n";

#[track_caller]
fn one(text: &str, expected: &str) {
    let found = mistakes(&format!("{HEAD}{text}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(expected), "\n  found    {}\n  expected {expected}", found[0]);
}

#[test]
fn an_unknown_key_is_found_at_every_level() {
    one(
        &format!("{TWO}matix: {{a: [1]}}\n"),
        "j:6:1: unknown key `matix` in the job file; did you mean `matrix`? allowed: ",
    );
    one(
        &format!("defaults: {{resource: {{}}}}\n{TWO}"),
        "j:3:12: unknown key `resource` in `defaults`; did you mean `resources`?",
    );
    one(
        &format!("defaults: {{resources: {{gpu: 1}}}}\n{TWO}"),
        "j:3:24: unknown key `gpu` in `resources`; did you mean `gpus`? allowed: cpus, gpus, memory, walltime",
    );
    one(
        &format!("defaults: {{kinds: {{slt: {{}}}}}}\n{TWO}"),
        "j:3:20: unknown key `slt` in `kinds`; did you mean `sft`?",
    );
    one(
        &format!("defaults: {{kinds: {{sft: {{params: {{epoch: 1}}}}}}}}\n{TWO}"),
        "j:3:35: unknown key `epoch` in `params`; did you mean `epochs`?",
    );
    one(
        "phases:\n  corpus: {kind: corpus, param: {}}\n",
        "j:4:26: unknown key `param` in `corpus`; did you mean `params`?",
    );
    one(
        "phases:\n  corpus: {kind: corpus, params: {heldout: 3}}\n",
        "j:4:35: unknown key `heldout` in `params`; did you mean `held_out`? allowed: seed, train,",
    );
    one(
        "phases:\n  corpus: {kind: corpus, retry: {errors: 3}}\n",
        "j:4:34: unknown key `errors` in `retry`; did you mean `error`?",
    );
    one(
        &format!("{TWO}budget: {{gpu_hour: 3}}\n"),
        "j:6:10: unknown key `gpu_hour` in `budget`; did you mean `gpu_hours`?",
    );
    one(
        &format!("{TWO}profiles: {{p: {{phases: {{base: {{params: {{step: 1}}}}}}}}}}\n"),
        "j:6:41: unknown key `step` in `params`; did you mean `steps`?",
    );
    one(
        &format!(
            "matrix: {{a: [1, 2]}}\n{TWO}    \n  c: {{kind: corpus, variants: [{{when: {{a: 1}}, parms: {{}}}}]}}\n"
        ),
        "j:8:47: unknown key `parms` in `variants`; did you mean `params`?",
    );
}

#[test]
fn wrong_types_and_values_say_what_is_right() {
    let corpus = |params: &str| format!("phases:\n  corpus: {{kind: corpus, params: {{{params}}}}}\n");
    one(&corpus("seed: abc"), "j:4:41: `seed` must be a whole number, not the text `abc`");
    one(
        &corpus("seed: '3'"),
        "j:4:41: `seed` must be a whole number, not the text `3`; write 3 without quotes",
    );
    one(&corpus("train: 1.5"), "j:4:42: `train` must be a whole number, not the number 1.5");
    one(&corpus("train: -1"), "j:4:42: `train` must be at least 0, not -1");
    one(&corpus("train: 5000000000"), "j:4:42: `train` must be at most 4294967295, not 5000000000");
    one(&corpus("train: [1]"), "j:4:42: `train` must be a whole number, not a list");
    one(
        "phases:\n  corpus: {kind: corpsu}\n",
        "j:4:18: `kind` cannot be the text `corpsu`; did you mean `corpus`? allowed: ",
    );
    one("phases:\n  corpus: {params: {}}\n", "j:4:11: `corpus` lacks the key `kind`; add `kind:`");
    one("phases:\n  corpus: corpus\n", "j:4:11: `corpus` must be a mapping, not the text `corpus`");
    one("phases: {}\n", "j:3:1: `phases` must not be empty");
    one(
        &format!("matrix: {{seed: 3}}\n{TWO}"),
        "j:3:16: `seed` must be a list, not the number 3; write it as a list",
    );
    one(&format!("matrix: {{seed: []}}\n{TWO}"), "j:3:16: `seed` must not be empty");
    one(&format!("matrix: {{seed: [1, 2, 1]}}\n{TWO}"), "j:3:23: the axis `seed` has the value 1 twice");
    one(
        "phases:\n  run: {kind: command}\n",
        "j:4:3: `params` lacks the key `argv`; add `argv:` (Program and arguments",
    );
    one("phases:\n  9lives: {kind: corpus}\n", "j:4:3: `9lives` cannot be the name of a phase");
}

#[test]
fn values_that_contradict_each_other_are_found() {
    let base = |params: &str| {
        format!(
            "phases:\n  corpus: {{kind: corpus}}\n  base: {{kind: base, inputs: {{corpus: corpus}}, params: {{{params}}}}}\n"
        )
    };
    one(&base("heads: 6"), "j:5:56: `hidden`: 128 is not an even number times the 6 heads");
    one(&base("kv_heads: 3"), "j:5:67: `kv_heads`: 3 does not divide the 4 heads");
    one(&base("learning_rate: 0"), "j:5:72: `learning_rate` must be more than 0, not 0");
    one(
        &format!(
            "{TWO}  rl: {{kind: rl, inputs: {{model: base, corpus: corpus}}, params: {{prompts: 2, rollouts: 3, minibatch: 7}}}}\n"
        ),
        "j:6:102: `minibatch`: 7 is more than the 2 prompts x 3 rollouts of an episode",
    );
}

#[test]
fn a_slip_in_a_unit_says_what_to_write() {
    let with = |resources: &str| format!("phases:\n  corpus: {{kind: corpus, resources: {{{resources}}}}}\n");
    one(&with("walltime: 30mn"), "j:4:48: `walltime`: `mn` is not a unit of time; did you mean 30m?");
    one(&with("walltime: 30"), "j:4:48: `walltime`: `30` has no unit; write 30s, 30m or 30h");
    one(&with("walltime: 1:30"), "j:4:48: `walltime`: `1:30` could be minutes or hours");
    one(
        &with("memory: 2GBs"),
        "j:4:46: `memory`: `GBs` is not a unit of memory; did you mean 2GB (10^9) or 2GiB (2^30)?",
    );
    one(&with("memory: 2000"), "j:4:46: `memory`: `2000` has no unit; write 2000MB or 2000GB");
    one(&with("memory: [1]"), "j:4:46: `memory` must be an amount of memory, not a list");
    one(&with("walltime: 0s"), "j:4:3: phase `corpus` has a walltime of 0");
    one(
        "phases:\n  corpus: {kind: corpus, margin: 2h}\n",
        "j:4:34: the margin (2h) is not shorter than the walltime; the walltime is 1h",
    );
}

#[test]
fn inputs_are_checked_against_phases_roles_and_kinds() {
    one(
        "phases:\n  corpus: {kind: corpus}\n  base: {kind: base, inputs: {corpus: copus}}\n",
        "j:5:39: there is no phase `copus`; did you mean `corpus`? allowed: corpus, base",
    );
    one(
        "phases:\n  base: {kind: base}\n",
        "j:4:3: phase `base` (kind base) lacks `corpus` in `inputs`; add `inputs: {corpus: PHASE}`",
    );
    one(
        &format!("{TWO}  x: {{kind: eval, inputs: {{modle: base, model: base, corpus: corpus}}}}\n"),
        "j:6:28: a phase of kind eval has no role `modle` in `inputs`; did you mean `model`? allowed: model, corpus",
    );
    one(
        &format!("{TWO}  x: {{kind: eval, inputs: {{model: corpus, corpus: corpus}}}}\n"),
        "j:6:35: `model` cannot be `corpus` (its kind is corpus)",
    );
    one(
        &format!(
            "{TWO}  x: {{kind: eval, inputs: {{model: [base, base2], corpus: corpus}}}}\n  base2: {{kind: base, inputs: {{corpus: corpus}}, params: {{seed: 9}}}}\n"
        ),
        "j:6:28: the role `model` takes one task, this is 2",
    );
    one(
        &format!("{TWO}  s: {{kind: serve, inputs: {{model: base}}}}\n"),
        "j:6:3: nobody uses the service `s`",
    );
}

#[test]
fn a_service_is_not_an_input_and_an_input_is_no_service() {
    let found = mistakes(&format!(
        "{HEAD}{TWO}  s: {{kind: serve, inputs: {{model: base}}}}\n  x: {{kind: command, params: {{argv: [a]}}, inputs: {{m: s}}, services: {{t: base}}}}\n"
    ));
    assert_eq!(
        found,
        [
            "j:7:55: `s` is a service and has no outputs; put it under `services:`",
            "j:7:73: `base` is no service (its kind is base); name a phase of kind serve",
        ]
    );
}

#[test]
fn cycles_are_spelled_out() {
    one(
        "phases:\n  a: {kind: command, params: {argv: [x]}, inputs: {x: c}}\n  b: {kind: command, params: {argv: [x]}, inputs: {x: a}}\n  c: {kind: command, params: {argv: [x]}, inputs: {x: b}}\n",
        "j:5:55: cycle: a needs c needs b needs a",
    );
    one(
        &format!(
            "matrix: {{v: [1, 2]}}\n{TWO}  r: {{kind: rl, params: {{seed: \"${{v}}\"}}, inputs: {{model: {{phase: r, at: {{v: 1}}}}, corpus: corpus}}}}\n"
        ),
        "j:7:65: cycle: r v=1 needs r v=1",
    );
}

#[test]
fn points_that_do_not_exist_are_found() {
    let job = |at: &str| {
        format!(
            "matrix: {{v: [one, two]}}\n{TWO}  r: {{kind: rl, inputs: {{model: base, corpus: corpus}}, params: {{seed: 3}}, variants: [{{when: {{v: two}}, inputs: {{model: {{phase: r, at: {at}}}}}}}]}}\n"
        )
    };
    one(
        &job("{v: tow}"),
        "j:7:138: phase `r` has no point with v = tow; did you mean `two`? allowed: one, two",
    );
    one(&job("{w: one}"), "j:7:135: phase `r` has no axis `w`; allowed: v");
    one(
        &format!(
            "{TWO}  e: {{kind: rl, matrix: {{s: [1, 2]}}, inputs: {{model: base, corpus: corpus}}, params: {{seed: \"${{s}}\"}}}}\n  f: {{kind: eval, inputs: {{model: e, corpus: corpus}}}}\n"
        ),
        "j:7:35: phase `e` has an axis `s` that `f` has not; say which: {phase: e, at: {s: 1}}, or at: {s: \"*\"} for all",
    );
}

#[test]
fn axes_are_checked_in_templates_and_conditions() {
    let head = format!("matrix: {{variant: [1, b]}}\n{TWO}");
    one(
        &format!("{head}  c: {{kind: corpus, params: {{seed: \"${{varian}}\"}}}}\n"),
        "j:7:36: there is no axis `varian` in phase `c`; did you mean `variant`? allowed: variant",
    );
    one(
        &format!("{head}  c: {{kind: corpus, params: {{seed: \"${{variant}}\"}}}}\n"),
        "j:7:36: `seed` must be a whole number, not the text `b`",
    );
    one(
        &format!("{head}  c: {{kind: corpus, params: {{seed: \"${{variant\"}}}}\n"),
        "j:7:36: `${variant` has a `${` without its `}`",
    );
    one(
        &format!("{head}  c: {{kind: corpus, variants: [{{when: {{variant: c}}, params: {{seed: 1}}}}]}}\n"),
        "j:7:49: the axis `variant` never is the text `c`",
    );
    one(
        &format!("{head}  c: {{kind: corpus, variants: [{{when: {{varaint: a}}, params: {{seed: 1}}}}]}}\n"),
        "j:7:40: there is no axis `varaint` in phase `c`; did you mean `variant`?",
    );
    one(
        &format!("{head}  c: {{kind: corpus, matrix: {{variant: [1]}}}}\n"),
        "j:7:30: the axis `variant` is already in the top-level matrix",
    );
    one(&format!("matrix: {{v: [\"${{x}}\"]}}\n{TWO}"), "j:3:14: `${…}` has no meaning in `matrix`");
}

#[test]
fn all_mistakes_are_reported_in_the_order_of_the_file() {
    let text = "bessemer: 2\nname: a b\nphases:\n  c:\n    kind: corpus\n    params: {seed: x, sead: 1}\n    resources: {memory: 2GBs}\n";
    let places: Vec<String> =
        mistakes(text).iter().map(|m| m.split(": ").next().unwrap_or_default().to_owned()).collect();
    assert_eq!(places, ["j:1:11", "j:2:7", "j:6:20", "j:6:23", "j:7:25"]);
}

#[test]
fn mistakes_in_set_and_profile_have_a_place_too() {
    let text = format!("{HEAD}{TWO}profiles: {{quick: {{phases: {{base: {{params: {{steps: 1}}}}}}}}}}\n");
    let set =
        |path: &str, value: &str| Options { set: vec![(path.into(), value.into())], ..Options::default() };
    assert_eq!(
        mistakes_with(&text, &set("phases.base.params.steps", "many")),
        ["--set phases.base.params.steps=many:1:26: `steps` must be a whole number, not the text `many`"]
    );
    assert!(mistakes_with(&text, &set("phases.base.parms.steps", "1"))[0].starts_with(
        "--set phases.base.parms.steps=1:1:13: unknown key `parms` in `base`; did you mean `params`?"
    ));
    assert!(mistakes_with(&text, &set("phases..x", "1"))[0].contains("is not a path"));
    let none =
        mistakes_with(&format!("{HEAD}{TWO}"), &Options { profile: Some("x".into()), ..Options::default() });
    assert!(none[0].contains("there is no profile `x`; the job file has no `profiles:`"), "{none:?}");
    let lists = |path: &str| mistakes_with(&format!("{HEAD}{TWO}"), &set(path, "1")).remove(0);
    let argv = "phases.base.params.steps[0]";
    assert!(lists(argv).contains("there is no list here, but"), "{}", lists(argv));
    for path in ["phases.base[", "phases.base[x]", "phases.base]0[", "a[0]b", "[0]"] {
        assert!(lists(path).contains("is not a path"), "{path}: {}", lists(path));
    }
    let profile = Options { profile: Some("quik".into()), ..Options::default() };
    assert_eq!(
        mistakes_with(&text, &profile),
        ["j:6:1: there is no profile `quik`; did you mean `quick`? allowed: quick"]
    );
    let only = Options { only: vec!["bas".into()], ..Options::default() };
    assert!(mistakes_with(&text, &only)[0].contains("there is no phase `bas` to plan; did you mean `base`?"));
    one(
        &format!("{TWO}profiles: {{p: {{phases: {{bsae: {{params: {{}}}}}}}}}}\n"),
        "j:6:25: there is no phase `bsae` to change",
    );
}

#[test]
fn a_budget_is_kept() {
    let head = format!(
        "matrix: {{s: [1, 2, 3]}}\n{TWO}  r: {{kind: rl, inputs: {{model: base, corpus: corpus}}, params: {{seed: \"${{s}}\"}}, resources: {{gpus: 2, walltime: 2h}}, estimate: 1h}}\n"
    );
    one(
        &format!("{head}budget: {{gpu_hours: 5.5}}\n"),
        "j:8:10: the plan needs 6 GPU-hours, the budget allows 5.5",
    );
    one(&format!("{head}budget: {{tasks: 4}}\n"), "j:8:10: the plan needs 5 tasks, the budget allows 4");
    one(
        &format!("{head}budget: {{hours: 2.9}}\n"),
        "j:8:10: the plan needs 3 hours (longest chain), the budget allows 2.9",
    );
    let enough = format!("{HEAD}{head}budget: {{tasks: 5, gpu_hours: 6, cpu_hours: 5, hours: 3}}\n");
    assert!(load("j", &enough, &Options::default()).is_ok());
}

#[test]
fn an_endless_matrix_is_refused_before_it_is_expanded() {
    let axes: Vec<String> = (0..12).map(|i| format!("a{i}: [1, 2, 3, 4]")).collect();
    let env: Vec<String> = (0..12).map(|i| format!("\"${{a{i}}}\"")).collect();
    one(
        &format!(
            "matrix: {{{}}}\nphases:\n  c: {{kind: command, params: {{argv: [{}]}}}}\n",
            axes.join(", "),
            env.join(", ")
        ),
        "j:5:3: the matrix has too many points (phase `c`: 16777216)",
    );
}

#[test]
fn broken_yaml_has_a_place() {
    assert!(mistakes("bessemer: 1\nname: [a\nphases: 3\n")[0].starts_with("j:3:"));
    assert_eq!(mistakes("").len(), 1);
    assert_eq!(mistakes("- a\n- b\n"), ["j:1:1: the job file must be a mapping, not a list"]);
    assert!(mistakes("a: 1\n---\nb: 2\n").iter().any(|m| m.contains("second YAML document")));
}
