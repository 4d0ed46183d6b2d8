//! What to change where a task does not fit.

use super::generation::{Keys, keys};
use super::{Estimate, Shape, Where, estimate, gigabytes};
use record::Params;
use record::params::{Algorithm, LoraParams, Precision};
use serde_json::{Map, Value, json};

/// A parameter that can be changed.
enum Lever {
    /// To another setting.
    Switch { key: &'static str, value: Value, words: String },
    /// To one of these numbers, the largest first.
    Number { key: &'static str, values: Vec<u64> },
}

/// Values of parameters and their words, `` `batch: 2` with `accumulation: 8` ``.
#[derive(Clone, Default)]
struct Setting {
    set: Map<String, Value>,
    words: Vec<String>,
}

impl Setting {
    /// With a number, and what has to follow it.
    fn with(&self, work: &Params, key: &'static str, n: u64) -> Self {
        let mut next = self.clone();
        next.set.insert(key.into(), json!(n));
        let mut words = format!("`{key}: {n}`");
        if let Some((also, more)) = follows(work, &next.set, key, n) {
            next.set.insert(also.into(), json!(more));
            words.push_str(&format!(" with `{also}: {more}`"));
        }
        next.words.push(words);
        next
    }

    fn switched(&self, key: &'static str, value: &Value, words: &str) -> Self {
        let mut next = self.clone();
        next.set.insert(key.into(), value.clone());
        next.words.push(words.to_owned());
        next
    }

    fn applied(&self, work: &Params) -> Option<Params> {
        let mut doc = serde_json::to_value(work).ok()?;
        for (key, value) in &self.set {
            doc["params"][key] = value.clone();
        }
        let work: Params = serde_json::from_value(doc).ok()?;
        // what is refused for another reason is no advice
        work.contradictions().is_empty().then_some(work)
    }
}

/// What has to change with a number: the same rows per step, a minibatch no larger than the episode.
fn follows(work: &Params, set: &Map<String, Value>, key: &str, n: u64) -> Option<(&'static str, u64)> {
    let now =
        |name: &str, otherwise: u32| set.get(name).and_then(Value::as_u64).unwrap_or(u64::from(otherwise));
    match (work, key) {
        (Params::Sft(p), "batch") => {
            Some(("accumulation", u64::from(p.accumulation) * u64::from(p.batch).div_ceil(n)))
        }
        (Params::Rl(p), "prompts" | "rollouts") => {
            let rollouts = now("prompts", p.prompts) * now("rollouts", p.rollouts);
            (now("minibatch", p.minibatch) > rollouts).then_some(("minibatch", rollouts))
        }
        _ => None,
    }
}

/// A task that does not fit.
struct Case<'a> {
    work: &'a Params,
    shape: &'a Shape,
    place: Where,
    limit: u64,
}

impl Case<'_> {
    fn bytes(&self, setting: &Setting) -> Option<u64> {
        let work = setting.applied(self.work)?;
        // a limit is no advice where not one answer fits
        let cramped = |k: &Keys| setting.set.contains_key("kv_bytes") && k.limit < k.usual;
        if keys(&work, self.shape, self.place).as_ref().is_some_and(cramped) {
            return None;
        }
        Some(estimate(&work, self.shape, self.place)?.bytes)
    }

    fn fits(&self, setting: &Setting) -> Option<u64> {
        self.bytes(setting).filter(|b| *b <= self.limit)
    }

    /// The smallest change of all these together: of each number the largest that leaves the others a chance.
    fn together(&self, levers: &[&Lever]) -> Option<Setting> {
        let mut setting = Setting::default();
        for lever in levers {
            if let Lever::Switch { key, value, words } = lever {
                setting = setting.switched(key, value, words);
            }
        }
        let numbers: Vec<_> = levers
            .iter()
            .filter_map(|l| match l {
                Lever::Number { key, values } => Some((*key, values)),
                Lever::Switch { .. } => None,
            })
            .collect();
        for (i, (key, values)) in numbers.iter().enumerate() {
            let chosen = values.iter().map(|&n| setting.with(self.work, key, n)).find(|tried| {
                let least = numbers[i + 1..]
                    .iter()
                    .fold(tried.clone(), |s, (key, values)| s.with(self.work, key, values[values.len() - 1]));
                self.fits(&least).is_some()
            });
            setting = chosen?;
        }
        self.fits(&setting).is_some().then_some(setting)
    }
}

/// The cheapest changes that would fit, at most three; where none does alone, the fewest together.
pub(super) fn advice(work: &Params, shape: &Shape, now: &Estimate, limit: u64) -> String {
    let place = if now.gpu { Where::Gpu } else { Where::Cpu };
    let case = Case { work, shape, place, limit };
    let levers = levers(work, shape, place);
    let said = |s: &Setting| {
        format!("{} ({} GB)", s.words.join(" and "), gigabytes(case.bytes(s).unwrap_or(u64::MAX)))
    };
    let mut fitting: Vec<String> = Vec::new();
    if !now.gpu {
        fitting.push(format!("`memory: {}MB`", now.megabytes().next_multiple_of(100)));
    }
    fitting.extend(levers.iter().filter_map(|l| case.together(&[l])).map(|s| said(&s)));
    if !fitting.is_empty() {
        fitting.truncate(3);
        return format!("any of these fits: {}", fitting.join(", or "));
    }
    // a lever is a bit; fewer ones first, and among as many those whose dearest is the cheapest
    let mut sets: Vec<u32> = (1..1u32 << levers.len()).collect();
    sets.sort_by_key(|set| (set.count_ones(), *set));
    let chosen = |set: u32| -> Vec<&Lever> {
        levers.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, l)| l).collect()
    };
    if let Some(setting) = sets.iter().find_map(|&set| case.together(&chosen(set))) {
        return format!("together these fit: {}", said(&setting));
    }
    // everything at its least that helps at all
    let mut best = (Setting::default(), now.bytes);
    for lever in &levers {
        let next = match lever {
            Lever::Switch { key, value, words } => best.0.switched(key, value, words),
            Lever::Number { key, values } => {
                let tried = values.iter().rev().map(|&n| best.0.with(work, key, n));
                let Some(next) = tried.into_iter().find(|s| case.bytes(s).is_some()) else { continue };
                next
            }
        };
        if let Some(bytes) = case.bytes(&next).filter(|b| *b < best.1) {
            best = (next, bytes);
        }
    }
    if best.0.words.is_empty() {
        return "a smaller model, or a larger GPU".into();
    }
    format!(
        "even {} leaves {} GB: a smaller model, or a larger GPU",
        best.0.words.join(" and "),
        gigabytes(best.1)
    )
}

/// Levers in the order of what they cost: time, then accuracy, then what is learnt or answered.
fn levers(work: &Params, shape: &Shape, place: Where) -> Vec<Lever> {
    let doc = serde_json::to_value(work).unwrap_or_default();
    let p = &doc["params"];
    let switch =
        |key: &'static str, value: Value, words: &str| Lever::Switch { key, value, words: words.into() };
    // half of it, a quarter, and so on
    let halved = |key: &'static str, least: u64| -> Option<Lever> {
        let first = p[key].as_u64()? / 2;
        let values: Vec<u64> =
            std::iter::successors(Some(first), |n| Some(n / 2)).take_while(|n| *n >= least.max(1)).collect();
        (!values.is_empty()).then_some(Lever::Number { key, values })
    };
    let limits = keys(work, shape, place).and_then(|k| {
        let values = fractions(k.all, k.usual);
        (!values.is_empty()).then_some(Lever::Number { key: "kv_bytes", values })
    });
    let mut out = Vec::new();
    if p["recompute"] == false {
        out.push(switch("recompute", json!(true), "`recompute: true`"));
    }
    match work {
        Params::Sft(_) | Params::Base(_) => out.extend(halved("batch", 1)),
        Params::Serve(_) | Params::Eval(_) => {
            out.extend(limits);
            out.extend(halved("max_batch", 1));
        }
        Params::Rl(r) => {
            out.extend(limits);
            // more than there are rollouts is the same as all of them
            let all = u64::from(r.prompts) * u64::from(r.rollouts);
            if let Some(Lever::Number { key, values }) = halved("max_batch", 1) {
                let values: Vec<u64> = values.into_iter().filter(|n| *n < all).collect();
                if !values.is_empty() {
                    out.push(Lever::Number { key, values });
                }
            }
            out.extend(halved("minibatch", 1));
        }
        _ => {}
    }
    if work.precision() == Some(Precision::Fp32) {
        // what each calculates fastest: a V100 has no bf16, and a CPU no kernels of ours for fp16
        let half = if place == Where::Gpu { "fp16" } else { "bf16" };
        out.push(switch("precision", json!(half), &format!("`precision: {half}`")));
    }
    if p.get("lora").is_some_and(Value::is_null) {
        let lora = serde_json::to_value(LoraParams::default()).unwrap_or_default();
        out.push(switch("lora", lora, "an adapter (`lora: {r: 16}`)"));
    }
    if p.get("quantization").is_some_and(|q| q != "nf4") {
        out.push(switch("quantization", json!("nf4"), "`quantization: nf4`"));
    }
    match work {
        Params::Sft(_) => out.extend(halved("max_tokens", 128)),
        Params::Rl(r) => {
            out.extend(halved("prompts", 1));
            out.extend(halved("rollouts", if r.algorithm == Algorithm::Grpo { 2 } else { 1 }));
        }
        Params::Serve(_) => out.extend(halved("max_new_tokens", 128)),
        _ => {}
    }
    out
}

/// Three quarters of a cache, three quarters of that, and so on in 10 MB, down to what one answer takes, in half precision too.
fn fractions(cache: u64, answer: u64) -> Vec<u64> {
    const STEP: u64 = 10_000_000;
    let least = (answer / 2).max(1).next_multiple_of(STEP);
    let mut values: Vec<u64> = std::iter::successors(Some(cache / 4 * 3), |n| Some(n / 4 * 3))
        .map(|n| n / STEP * STEP)
        .take_while(|n| *n > least)
        .chain([answer.next_multiple_of(STEP), least])
        .filter(|n| *n < cache)
        .collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.dedup();
    values
}
