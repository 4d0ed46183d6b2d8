//! `scontrol show partition -o`: one line of `Key=value` words per partition.

use crate::parse::ParseError;

/// What a task is checked against before it is handed in (specs: F11).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partition {
    pub name: String,
    pub default: bool,
    /// `false`: DOWN, DRAIN or INACTIVE.
    pub up: bool,
    /// `None`: no limit.
    pub max_time_s: Option<u64>,
    pub total_cpus: Option<u64>,
    pub total_nodes: Option<u64>,
    /// Largest memory per node that a job may ask for, MiB, where the partition sets one.
    pub max_mem_per_node: Option<u64>,
    /// GPUs of all its nodes, where Slurm says (`TRES=...,gres/gpu=8`); `None`: not told.
    pub gpus: Option<u64>,
}

/// # Errors
/// A line that does not begin with `PartitionName=`.
pub fn parse(stdout: &str) -> Result<Vec<Partition>, ParseError> {
    let mut out = Vec::new();
    for (n, line) in stdout.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let wrong = || ParseError { command: "scontrol show partition", line: n + 1, text: line.to_owned() };
        let mut p = Partition::default();
        for (key, value) in line.split_whitespace().filter_map(|w| w.split_once('=')) {
            match key {
                "PartitionName" => p.name = value.to_owned(),
                "Default" => p.default = value == "YES",
                "State" => p.up = value == "UP",
                "MaxTime" => p.max_time_s = time(value),
                "TotalCPUs" => p.total_cpus = value.parse().ok(),
                "TotalNodes" => p.total_nodes = value.parse().ok(),
                "MaxMemPerNode" => p.max_mem_per_node = value.parse().ok(),
                "TRES" => {
                    let gpus = value.split(',').find_map(|t| t.strip_prefix("gres/gpu="));
                    p.gpus = gpus.and_then(|g| g.parse().ok());
                }
                _ => {}
            }
        }
        if p.name.is_empty() {
            return Err(wrong());
        }
        out.push(p);
    }
    Ok(out)
}

/// Slurm's times: `30` (minutes), `30:00`, `12:00:00`, `2-12`, `2-12:00`, `2-12:00:00`; `UNLIMITED` is `None`.
#[must_use]
pub fn time(text: &str) -> Option<u64> {
    let (days, rest) = match text.split_once('-') {
        Some((d, r)) => (Some(d.parse::<u64>().ok()?), r),
        None => (None, text),
    };
    let parts: Vec<u64> = rest.split(':').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    let (h, m, s) = match (days.is_some(), &parts[..]) {
        (false, [m]) => (0, *m, 0),
        (false, [m, s]) => (0, *m, *s),
        (true, [h]) => (*h, 0, 0),
        (true, [h, m]) => (*h, *m, 0),
        (_, [h, m, s]) => (*h, *m, *s),
        _ => return None,
    };
    let part = |n: u64, unit: u64| n.checked_mul(unit);
    part(days.unwrap_or(0), 86400)?.checked_add(part(h, 3600)?)?.checked_add(part(m, 60)?)?.checked_add(s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_of_a_partition_are_read() {
        let text = "PartitionName=short AllowGroups=ALL Default=NO MaxTime=00:01:00 State=UP TotalCPUs=16 TotalNodes=4 \
                    MaxMemPerNode=UNLIMITED TRES=cpu=16,mem=16G,node=4,billing=16,gres/gpu=4\n\
                    PartitionName=batch Default=YES MaxTime=UNLIMITED State=DOWN TotalCPUs=16 MaxMemPerNode=4096\n";
        let p = parse(text).unwrap();
        assert_eq!(
            (p[0].name.as_str(), p[0].max_time_s, p[0].gpus, p[0].up),
            ("short", Some(60), Some(4), true)
        );
        assert_eq!(
            (p[1].default, p[1].max_time_s, p[1].up, p[1].max_mem_per_node),
            (true, None, false, Some(4096))
        );
        assert_eq!(parse("no\n").unwrap_err().line, 1);
    }

    #[test]
    fn times_in_all_spellings() {
        let table = [
            ("30", 1800),
            ("30:05", 1805),
            ("12:00:00", 43200),
            ("2-12", 216_000),
            ("1-00:30", 88200),
            ("1-0:0:1", 86401),
        ];
        for (text, s) in table {
            assert_eq!(time(text), Some(s), "{text}");
        }
        for none in ["UNLIMITED", "", "1:2:3:4", "x", "99999999999999999-1"] {
            assert_eq!(time(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,300}", t in "[0-9:-]{0,30}") { let _ = (parse(&text), time(&t)); }
    }
}
