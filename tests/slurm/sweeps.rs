//! Job files of the tests.

use super::lab::Lab;
use std::fmt::Write;

/// `argv` of a task that leaves a mark and then does `script` (in which `$0`, `$1`, ... are `name` and `args`).
fn shell(lab: &Lab, name: &str, args: &[&str], script: &str) -> String {
    // one short line in one write: tasks that run at the same time do not mix theirs
    let mark = r#"echo $0 $@ >> "$MARKS""#;
    let words: Vec<String> = ["sh", "-c", &format!("{mark}; {script}"), name]
        .iter()
        .chain(args)
        .map(|w| format!("'{}'", w.replace('\'', "''")))
        .collect();
    format!("{{argv: [{}], env: {{MARKS: '{}'}}}}", words.join(", "), lab.marks_file().display())
}

/// The quickstart's shape: seven phases, three variants by two seeds, `continued` built on `binary`; each task copies what
/// it was given and adds itself, so that the last output tells the whole way.
pub fn quickstart(lab: &Lab) -> String {
    let copy = r#"for d in "$BESSEMER_INPUT_CORPUS" "$BESSEMER_INPUT_MODEL" "$BESSEMER_INPUT_DATA"; do [ -z "$d" ] || cat "$d/trace"; done | sort -u > trace; echo "$0 $1 $2" >> trace"#;
    let eval = format!(
        r#"{copy}; printf '{{"format":1,"status":"ok","metrics":[{{"metric":"pass","value":0.5,"low":0.4,"high":0.6,"n":10,"unscored":1}}]}}' > "$BESSEMER_ATTEMPT_DIR/outcome.json""#
    );
    let train = format!(
        r#"{copy}; for i in 1 2 3; do printf '{{"at":%s,"step":%s,"of":3,"values":{{"reward":0.%s}}}}\n' $((i*1000)) $i $i >> "$BESSEMER_EVENTS"; done"#
    );
    format!(
        "bessemer: 1\nname: shape\nmatrix:\n  variant: [binary, fresh, continued]\n  seed: [1, 2]\n\
         defaults:\n  resources: {{cpus: 1, memory: 60MB, walltime: 5m}}\nphases:\n\
         \x20 corpus: {{kind: command, params: {corpus}}}\n\
         \x20 base: {{kind: command, inputs: {{corpus: corpus}}, params: {base}}}\n\
         \x20 sample: {{kind: command, inputs: {{corpus: corpus, model: base}}, params: {sample}}}\n\
         \x20 sft: {{kind: command, inputs: {{model: base, data: sample}}, params: {sft}}}\n\
         \x20 rl:\n    kind: command\n    inputs: {{model: sft, corpus: corpus}}\n    params: {rl}\n    variants:\n\
         \x20     - when: {{variant: continued}}\n        inputs: {{model: {{phase: rl, at: {{variant: binary}}}}}}\n\
         \x20 eval:\n    kind: command\n    matrix:\n      of: [base, sft, rl]\n\
         \x20   inputs: {{model: \"${{of}}\", corpus: corpus}}\n    params: {eval}\n",
        corpus = shell(lab, "corpus", &[], copy),
        base = shell(lab, "base", &[], copy),
        sample = shell(lab, "sample", &[], copy),
        sft = shell(lab, "sft", &[], copy),
        rl = shell(lab, "rl", &["${variant}", "${seed}"], &train),
        eval = shell(lab, "eval", &["${of}"], &eval),
    )
}

/// `n` equal tasks that need nothing.
pub fn many(lab: &Lab, n: usize, script: &str) -> String {
    let mut list = String::new();
    for i in 0..n {
        let _ = write!(list, "{}{i}", if i > 0 { ", " } else { "" });
    }
    format!(
        "bessemer: 1\nname: many\nmatrix: {{i: [{list}]}}\ndefaults:\n  resources: {{cpus: 1, memory: 60MB, walltime: 5m}}\n\
         phases:\n  work: {{kind: command, params: {}}}\n",
        shell(lab, "work", &["${i}"], script)
    )
}

/// A chain of phases `a` -> `b` -> `c`; `first` is what `a` does; `more` goes to `a` (YAML, one flow entry).
pub fn chain(lab: &Lab, first: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(
        "bessemer: 1\nname: chain\ndefaults:\n  resources: {{cpus: 1, memory: 60MB, walltime: 5m}}\nphases:\n\
         \x20 a: {{kind: command, params: {}{comma}{more}}}\n\
         \x20 b: {{kind: command, inputs: {{x: a}}, params: {}}}\n\
         \x20 c: {{kind: command, inputs: {{x: b}}, params: {}}}\n",
        shell(lab, "a", &[], first),
        shell(lab, "b", &[], "true"),
        shell(lab, "c", &[], "true"),
    )
}
