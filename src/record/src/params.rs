//! Parameters of every worker kind, with their defaults: what a job file may say under `params:`.
//!
//! They live here, in the crate without dependencies, because the planner must reject a typo with a line and a column
//! on a login node that has no libtorch. Each struct's documentation is the text an editor shows (JSON Schema).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod combination;
mod data;
mod reward;
mod rl;
mod tuning;

pub use combination::{Combination, CombinationError, is_name};
pub use data::{
    CommandParams, CorpusParams, EvalParams, Keep, KvPrecision, SampleParams, ServeParams, Split,
};
pub use reward::{
    BANDIT_VERSION, Declared, OracleKind, OracleParams, Reading, RewardSpec, Rubric, RuleSet, SecurityPolicy,
    Tool,
};
pub use rl::{Algorithm, Profile, RewardMode, RlParams};
pub use tuning::{BaseParams, Columns, LoraParams, Precision, Quantization, Schedule, SftParams};

/// Kind and parameters of a task; serialises as `{"kind": "sft", "params": {...}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "params", rename_all = "kebab-case")]
pub enum Params {
    /// Generate the project's own problem set, split it, check the split.
    Corpus(CorpusParams),
    /// Train a tokenizer and a small decoder from scratch.
    Base(BaseParams),
    /// Serve a model over an OpenAI-compatible API while others need it.
    Serve(ServeParams),
    /// Draw n answers per problem, run each in the sandbox, keep those that the rule accepts.
    Sample(SampleParams),
    /// Supervised fine-tuning.
    Sft(SftParams),
    /// Reinforcement learning against an oracle.
    Rl(RlParams),
    /// Measure a model on a split.
    Eval(EvalParams),
    /// Run a program of the user's.
    Command(CommandParams),
}

/// The worker kinds, without their parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Corpus,
    Base,
    Serve,
    Sample,
    Sft,
    Rl,
    Eval,
    Command,
}

impl Kind {
    pub const ALL: [Kind; 8] =
        [Kind::Corpus, Kind::Base, Kind::Serve, Kind::Sample, Kind::Sft, Kind::Rl, Kind::Eval, Kind::Command];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Corpus => "corpus",
            Kind::Base => "base",
            Kind::Serve => "serve",
            Kind::Sample => "sample",
            Kind::Sft => "sft",
            Kind::Rl => "rl",
            Kind::Eval => "eval",
            Kind::Command => "command",
        }
    }

    /// A service stays up for others and produces no outputs.
    #[must_use]
    pub fn is_service(self) -> bool {
        self == Kind::Serve
    }

    /// Roles under `inputs:` that the kind needs, and roles that it may have.
    #[must_use]
    pub fn roles(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Kind::Corpus => (&[], &[]),
            Kind::Base => (&["corpus"], &[]),
            Kind::Serve => (&["model"], &["adapters"]),
            Kind::Sample => (&["corpus"], &[]),
            Kind::Sft => (&["model", "data"], &["corpus"]),
            Kind::Rl => (&["model", "corpus"], &["reference"]),
            Kind::Eval => (&["model", "corpus"], &[]),
            // any roles: the command finds them in its environment
            Kind::Command => (&[], &[]),
        }
    }

    /// Roles under `services:` that the kind may have.
    #[must_use]
    pub fn optional_service_roles(self) -> &'static [&'static str] {
        match self {
            // judges of a declared reward
            Kind::Rl | Kind::Eval => &["judge"],
            _ => &[],
        }
    }

    /// Roles under `services:` that the kind needs.
    #[must_use]
    pub fn service_roles(self) -> &'static [&'static str] {
        match self {
            Kind::Sample => &["generator"],
            _ => &[],
        }
    }
}

impl Params {
    /// Values that are right one by one and wrong together: (parameter, what is wrong and what to do).
    #[must_use]
    pub fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if let Params::Sft(SftParams { lora: None, quantization: Quantization::Nf4, .. })
        | Params::Rl(RlParams { lora: None, quantization: Quantization::Nf4, .. }) = self
        {
            let message = "4-bit weights are frozen: give a `lora` to train, or set quantization none";
            found.push(("quantization", message.to_owned()));
        }
        match self {
            Params::Base(p) => {
                if p.heads > 0 && (p.hidden % p.heads != 0 || (p.hidden / p.heads) % 2 != 0) {
                    let (hidden, heads) = (p.hidden, p.heads);
                    found.push(("hidden", format!("{hidden} is not an even number times the {heads} heads")));
                }
                if p.kv_heads > 0 && p.heads % p.kv_heads != 0 {
                    found.push(("kv_heads", format!("{} does not divide the {} heads", p.kv_heads, p.heads)));
                }
            }
            Params::Sft(p) => {
                if let Some(c) = p.columns.as_ref().filter(|c| c.messages.is_some())
                    && (c.prompt.is_some() || c.completion.is_some())
                {
                    found.push(("columns", "`messages` holds prompt and answer: drop the others".to_owned()));
                }
                if p.validation == 0.0 && (p.patience > 0 || p.evaluate_every > 0) {
                    let key = if p.patience > 0 { "patience" } else { "evaluate_every" };
                    found.push((key, "there is nothing to measure on: set validation, e.g. 0.05".to_owned()));
                }
            }
            Params::Rl(p) => {
                let rollouts = u64::from(p.prompts) * u64::from(p.rollouts);
                if u64::from(p.minibatch) > rollouts {
                    let (prompts, each) = (p.prompts, p.rollouts);
                    let message = format!(
                        "{} is more than the {prompts} prompts x {each} rollouts of an episode",
                        p.minibatch
                    );
                    found.push(("minibatch", message));
                }
                if let RewardSpec::Declared(d) = &p.reward
                    && let Err(message) = d.check()
                {
                    found.push(("reward", message));
                }
                if p.algorithm == Algorithm::Grpo && p.rollouts < 2 {
                    found.push(("rollouts", "grpo compares rollouts of one prompt: at least 2".to_owned()));
                }
            }
            Params::Eval(p) => {
                if let Some(Err(message)) = p.reward.as_ref().map(Declared::check) {
                    found.push(("reward", message));
                }
            }
            Params::Serve(p) if p.kv_precision == KvPrecision::Bf16 && p.precision != Precision::Bf16 => {
                let message = "bf16 keys and values need `precision: bf16`; otherwise leave it auto";
                found.push(("kv_precision", message.to_owned()));
            }
            _ => {}
        }
        found
    }

    /// Number format of the weights that the task loads; `None` for kinds that load none.
    #[must_use]
    pub fn precision(&self) -> Option<Precision> {
        match self {
            Params::Sft(p) => Some(p.precision),
            Params::Rl(p) => Some(p.precision),
            Params::Serve(p) => Some(p.precision),
            Params::Eval(p) => Some(p.precision),
            _ => None,
        }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Params::Corpus(_) => Kind::Corpus,
            Params::Base(_) => Kind::Base,
            Params::Serve(_) => Kind::Serve,
            Params::Sample(_) => Kind::Sample,
            Params::Sft(_) => Kind::Sft,
            Params::Rl(_) => Kind::Rl,
            Params::Eval(_) => Kind::Eval,
            Params::Command(_) => Kind::Command,
        }
    }
}
