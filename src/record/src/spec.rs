//! `task.json`: everything one attempt needs to know. The worker reads nothing else but the inputs it names.

use crate::key::{ContentKey, Token};
use crate::params::Params;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One attempt at one task, as written by the planner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub format: u32,
    pub sweep: String,
    pub phase: String,
    /// The matrix values that single this task out, e.g. `{"variant": "binary", "seed": 1}`; for people and tables.
    pub labels: BTreeMap<String, serde_json::Value>,
    pub key: ContentKey,
    /// Counts from 1.
    pub attempt: u32,
    pub token: Token,
    /// Kind and its parameters: `{"kind": "sft", "params": {...}}`.
    #[serde(flatten)]
    pub work: Params,
    /// Role -> upstream task whose *outputs* are read. Several tasks may fill one role (`models: [a, b]`).
    pub inputs: BTreeMap<String, Vec<Input>>,
    /// Role -> what no phase of the sweep made: repositories of the Hub, files of the user's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Vec<crate::Source>>,
    /// Role -> service task that must be up while this one runs.
    #[serde(default)]
    pub services: BTreeMap<String, Input>,
    /// For services only: the task directories whose `result.json` end the need for this service.
    #[serde(default)]
    pub consumers: Vec<PathBuf>,
    pub resources: Resources,
    /// Absolute path of the task's directory (`layout::task_dir`).
    pub task_dir: PathBuf,
    /// Absolute path of this attempt's directory.
    pub attempt_dir: PathBuf,
    /// Checkpoint and leave this long before the walltime ends.
    pub margin_s: u64,
}

/// A task that another one needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub phase: String,
    pub key: ContentKey,
    /// Absolute; its `result.json` says where the outputs are.
    pub task_dir: PathBuf,
}

/// What a task asks of the machine. Units are in the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub cpus: u32,
    pub gpus: u32,
    pub memory_mb: u64,
    pub walltime_s: u64,
}

impl TaskSpec {
    /// Reads and checks a `task.json`.
    ///
    /// # Errors
    /// A sentence with the path: missing, malformed, or of a newer format.
    pub fn read(path: &std::path::Path) -> Result<Self, String> {
        let spec: Self = crate::atomic::read_json(path)
            .map_err(|e| format!("cannot read the task spec: {e}"))?
            .ok_or_else(|| format!("there is no task spec at {}", path.display()))?;
        if spec.format > crate::FORMAT {
            return Err(format!(
                "{} has format {}, this program knows up to {}: update bessemer",
                path.display(),
                spec.format,
                crate::FORMAT
            ));
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Params, SftParams};

    #[test]
    fn a_spec_survives_its_file() {
        let key = ContentKey::of("sft", &serde_json::json!({}), &BTreeMap::new());
        let dir = tempfile::tempdir().unwrap();
        let spec = TaskSpec {
            format: crate::FORMAT,
            sweep: "s".into(),
            phase: "sft".into(),
            labels: BTreeMap::from([("seed".into(), serde_json::json!(1))]),
            token: Token::new("n", "sft", &key, 1),
            key,
            attempt: 1,
            work: Params::Sft(SftParams { learning_rate: 1.0 / 3.0, ..SftParams::default() }),
            inputs: BTreeMap::new(),
            sources: BTreeMap::new(),
            services: BTreeMap::new(),
            consumers: vec![],
            resources: Resources { cpus: 1, gpus: 0, memory_mb: 1000, walltime_s: 60 },
            task_dir: dir.path().into(),
            attempt_dir: dir.path().join("attempt-1"),
            margin_s: 30,
        };
        let path = dir.path().join("task.json");
        crate::atomic::write_json(&path, &spec).unwrap();
        assert_eq!(TaskSpec::read(&path).unwrap(), spec);
        let newer = std::fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 99");
        std::fs::write(&path, newer).unwrap();
        assert!(TaskSpec::read(&path).unwrap_err().contains("update bessemer"));
    }
}
