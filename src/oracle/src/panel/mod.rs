//! A panel: the oracles of one declaration, asked about whole batches of answers. `bessemer score`, the reward of RL and
//! evaluation all judge through it, so that one declaration means the same everywhere.

mod format;
mod judged;
mod security;

pub use judged::{Asker, JudgeOracle};
pub use security::SecurityOracle;

use crate::combine::combine;
use crate::credit::{Execution, functional};
use crate::judge::BatchAlarm;
use crate::verdict::{Scored, Verdict};
use record::params::{Declared, OracleKind, OracleParams, Profile, RewardMode};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One answer, as every oracle sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    /// The whole answer; `None` where only a program is known.
    pub response: Option<&'a str>,
    /// The program in it; `None` where it holds none.
    pub program: Option<&'a str>,
    /// What was asked: the statement, or the user's request.
    pub prompt: Option<&'a str>,
    /// The other program of a pairwise comparison.
    pub other: Option<&'a str>,
}

impl<'a> Subject<'a> {
    /// What a reader of text gets: the answer, or the program where there is no more.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.response.or(self.program).unwrap_or_default()
    }
}

/// An oracle that needs no execution.
pub trait Oracle: Send {
    /// Everything that decides its verdicts beside the answers: tool and rule-set version, model, policy.
    fn identity(&self) -> String;

    /// One row per subject, in order. Fails row by row: what could not be judged is unscored.
    fn score(&mut self, name: &str, subjects: &[Subject<'_>]) -> Vec<Scored>;

    /// Why the last batch could not be judged and a later one may be: a server that is not there.
    fn away(&self) -> Option<&str> {
        None
    }
}

/// Makes the connection of a judge.
pub type Connect<'a> = dyn FnMut(&str, &OracleParams) -> Result<Box<dyn Asker>, String> + 'a;

/// Runs the programs of the subjects at some places; an error is the reason why that one could not be judged.
pub type Execute<'a> = dyn FnMut(&[usize]) -> Vec<Result<Execution, String>> + 'a;

/// What oracles are built from.
pub struct Toolbox<'a> {
    /// Python of the private Bandit environment.
    pub bandit_python: PathBuf,
    /// Directory for verdicts by content; `None` keeps them for this process.
    pub cache: Option<PathBuf>,
    /// Makes the connection of the judge of this name.
    pub asker: &'a mut Connect<'a>,
}

/// Why a panel could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PanelError {
    #[error("{0}")]
    Declaration(String),
    #[error("oracle {name}: {why}")]
    Oracle { name: String, why: String },
}

enum Member {
    /// Scored from an execution.
    Executed(Profile, Counting),
    Other(Box<dyn Oracle>),
}

#[derive(Clone, Copy)]
enum Counting {
    Share,
    Functional(RewardMode),
}

/// What the panel says of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Each oracle's word, in the order of the declaration; behind a failed gate the others are not asked.
    pub oracles: Vec<Scored>,
    /// The combination.
    pub reward: Scored,
}

/// The oracles of one declaration.
pub struct Panel {
    declared: Declared,
    members: BTreeMap<String, Member>,
    alarms: BTreeMap<String, BatchAlarm>,
}

impl Panel {
    /// Builds every oracle.
    ///
    /// # Errors
    /// See [`PanelError`]: the declaration contradicts itself, or a tool is not there or not in the version declared.
    pub fn new(declared: &Declared, tools: &mut Toolbox<'_>) -> Result<Self, PanelError> {
        declared.check().map_err(PanelError::Declaration)?;
        let mut members = BTreeMap::new();
        for (name, params) in &declared.oracles {
            let profile = params.profile.unwrap_or_default();
            let failed = |why: String| PanelError::Oracle { name: name.clone(), why };
            let member = match params.oracle {
                OracleKind::Tests => Member::Executed(profile, Counting::Share),
                OracleKind::Binary => Member::Executed(profile, Counting::Functional(RewardMode::Binary)),
                OracleKind::PartialCredit => {
                    Member::Executed(profile, Counting::Functional(RewardMode::PartialCredit))
                }
                OracleKind::Analyzer => Member::Other(Box::new(
                    SecurityOracle::new(params, &tools.bandit_python, tools.cache.as_deref())
                        .map_err(failed)?,
                )),
                OracleKind::Format => Member::Other(Box::new(format::FormatOracle::new(params))),
                OracleKind::Judge => {
                    let asker = (tools.asker)(name, params).map_err(failed)?;
                    Member::Other(Box::new(JudgeOracle::new(params, asker, tools.cache.as_deref())))
                }
            };
            members.insert(name.clone(), member);
        }
        Ok(Self { declared: declared.clone(), members, alarms: BTreeMap::new() })
    }

    /// Whether programs have to run.
    #[must_use]
    pub fn executes(&self) -> bool {
        self.members.values().any(|m| matches!(m, Member::Executed(..)))
    }

    /// Whether some oracle needs every test's outcome, and not only whether all pass.
    #[must_use]
    pub fn needs_every_test(&self) -> bool {
        self.members.values().any(|m| {
            matches!(
                m,
                Member::Executed(_, Counting::Share | Counting::Functional(RewardMode::PartialCredit))
            )
        })
    }

    /// Everything that decides scores beside the answers and the sandbox.
    #[must_use]
    pub fn identity(&self) -> String {
        let declared = serde_json::to_string(&self.declared).unwrap_or_default();
        let others: Vec<String> = self
            .members
            .iter()
            .filter_map(|(name, m)| match m {
                Member::Other(o) => Some(format!("{name}={}", o.identity())),
                Member::Executed(..) => None,
            })
            .collect();
        format!("{declared}; {}", others.join("; "))
    }

    /// Judges a batch. `execute` runs the programs of the subjects at these places, and is not called when no oracle
    /// needs it; an error is the reason why that one could not be judged.
    pub fn judge(&mut self, subjects: &[Subject<'_>], execute: &mut Execute<'_>) -> Vec<Judged> {
        let mut rows: Vec<BTreeMap<String, Scored>> = vec![BTreeMap::new(); subjects.len()];
        let mut closed: Vec<Option<Scored>> = vec![None; subjects.len()];
        let mut seen: Vec<Option<Result<Execution, String>>> = vec![None; subjects.len()];
        let gates = self.declared.gates.clone();
        for name in &gates {
            let open: Vec<usize> = (0..subjects.len()).filter(|i| closed[*i].is_none()).collect();
            self.ask(name, subjects, &open, &mut seen, execute, &mut rows);
            for i in open {
                closed[i] = rows[i].get(name).and_then(gate);
            }
        }
        let open: Vec<usize> = (0..subjects.len()).filter(|i| closed[*i].is_none()).collect();
        let rest: Vec<String> = self.members.keys().filter(|n| !gates.contains(n)).cloned().collect();
        for name in &rest {
            self.ask(name, subjects, &open, &mut seen, execute, &mut rows);
        }
        rows.into_iter()
            .zip(closed)
            .map(|(row, closed)| {
                let oracles: Vec<Scored> = row.into_values().collect();
                let reward = match closed {
                    Some(closed) => Scored { ms: oracles.iter().map(|o| o.ms).sum(), ..closed },
                    None => combine(&self.declared.combine, &oracles),
                };
                Judged { oracles, reward }
            })
            .collect()
    }

    fn ask(
        &mut self,
        name: &str,
        subjects: &[Subject<'_>],
        open: &[usize],
        seen: &mut [Option<Result<Execution, String>>],
        execute: &mut Execute<'_>,
        rows: &mut [BTreeMap<String, Scored>],
    ) {
        let Some(member) = self.members.get_mut(name) else { return };
        let scored: Vec<Scored> = match member {
            Member::Executed(profile, counting) => {
                let wanted: Vec<usize> = open.iter().copied().filter(|i| seen[*i].is_none()).collect();
                if !wanted.is_empty() {
                    let mut runs = execute(&wanted).into_iter();
                    for &i in &wanted {
                        let lost = || Err("it was not run".to_owned());
                        seen[i] = Some(runs.next().unwrap_or_else(lost));
                    }
                }
                open.iter()
                    .map(|&i| {
                        let scored = executed(name, *profile, *counting, seen[i].as_ref());
                        // The time of an execution stands with the first oracle that asked for it, and in no sum twice.
                        if wanted.binary_search(&i).is_ok() { scored } else { Scored { ms: 0.0, ..scored } }
                    })
                    .collect()
            }
            Member::Other(oracle) => {
                let part: Vec<Subject<'_>> = open.iter().map(|&i| subjects[i]).collect();
                let mut scored = oracle.score(name, &part);
                scored.resize_with(open.len(), || Scored::unscored(name, "the oracle gave no answer"));
                scored
            }
        };
        let alarm = self.alarms.entry(name.to_owned()).or_default();
        for (&i, row) in open.iter().zip(scored) {
            alarm.push(match row.verdict {
                Verdict::Pass => Some(true),
                Verdict::Fail => Some(false),
                Verdict::Unscored => None,
            });
            rows[i].insert(name.to_owned(), row);
        }
    }

    /// Which oracle is away and why, if one was at the last batch: its rows are unscored, and asking again later may
    /// help.
    #[must_use]
    pub fn away(&self) -> Option<String> {
        self.members.iter().find_map(|(name, m)| match m {
            Member::Other(o) => o.away().map(|why| format!("oracle {name}: {why}")),
            Member::Executed(..) => None,
        })
    }

    /// What looks broken about the verdicts since the last call: an oracle that always says the same, or mostly
    /// nothing. Executed tests may well be constant for a weak model, so only the others are watched for that.
    pub fn alarms(&mut self) -> Vec<String> {
        std::mem::take(&mut self.alarms)
            .into_iter()
            .filter(|(name, alarm)| {
                alarm.mostly_silent() || matches!(self.members.get(name), Some(Member::Other(_)))
            })
            .filter_map(|(name, alarm)| alarm.message(&name))
            .collect()
    }
}

/// The reward behind a gate, where it is decided there.
fn gate(row: &Scored) -> Option<Scored> {
    match row.verdict {
        Verdict::Pass => None,
        Verdict::Fail => Some(Scored::of("reward", 0.0, format!("gate {}: {}", row.oracle, row.reason))),
        Verdict::Unscored => Some(Scored::unscored("reward", format!("gate {}: {}", row.oracle, row.reason))),
    }
}

fn executed(
    name: &str,
    profile: Profile,
    counting: Counting,
    seen: Option<&Result<Execution, String>>,
) -> Scored {
    let run = match seen {
        Some(Ok(run)) => run,
        Some(Err(why)) => return Scored::unscored(name, why),
        None => return Scored::unscored(name, "it was not run"),
    };
    let score = match counting {
        Counting::Functional(mode) => functional(profile, mode, run),
        Counting::Share if !run.parses => Some(0.0),
        Counting::Share if run.tests.is_empty() => None,
        Counting::Share => Some(run.passed() as f64 / run.tests.len() as f64),
    };
    let Some(score) = score else { return Scored::unscored(name, "the problem has no tests") };
    let reason = if run.parses {
        format!("{} of {} tests pass, stage {}", run.passed(), run.tests.len(), run.stage().name())
    } else {
        "it does not parse".to_owned()
    };
    let facts = serde_json::json!({
        "stage": run.stage().name(), "passed": run.passed(), "total": run.tests.len(), "parses": run.parses,
    });
    let verdict = if run.stage() == crate::credit::Stage::PassesAll { Verdict::Pass } else { Verdict::Fail };
    Scored { verdict, ms: run.run_ms, facts: Some(facts), ..Scored::of(name, score, reason) }
}
