//! One colour per variant, the same in every figure.

use crate::sweep::Sweep;
use serde_json::Value;
use std::collections::BTreeMap;

/// Colours that the style sheet has (`stroke0`, `fill0`, ...).
pub const COLOURS: usize = 8;
/// What belongs to no variant: the baselines.
const NEUTRAL: usize = 7;

/// Axes that name no variant: what is measured, and the repetition.
const NOT_VARIANT: [&str; 2] = ["of", "seed"];

pub struct Palette {
    /// In the graph's order.
    variants: Vec<BTreeMap<String, Value>>,
}

impl Palette {
    pub fn of(sweep: &Sweep) -> Self {
        let mut variants = Vec::new();
        for t in &sweep.tasks {
            let v = variant(&t.task.labels);
            if !v.is_empty() && !variants.contains(&v) {
                variants.push(v);
            }
        }
        Self { variants }
    }

    /// Index of the colour for a task with these labels.
    pub fn colour(&self, labels: &BTreeMap<String, Value>) -> usize {
        if self.variants.is_empty() {
            return 0;
        }
        let wanted = variant(labels);
        self.variants.iter().position(|v| *v == wanted).map_or(NEUTRAL, |i| i % NEUTRAL)
    }
}

fn variant(labels: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    labels
        .iter()
        .filter(|(k, _)| !NOT_VARIANT.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
