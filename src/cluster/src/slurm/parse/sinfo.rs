//! `sinfo -h -e -o '%R|%c|%m|%G'`: partition, CPUs, memory in MiB and generic resources of each kind of node.

use crate::parse::ParseError;

/// For `-o`. `-e` keeps unlike nodes apart (else CPUs read `40+`).
pub const FORMAT: &str = "%R|%c|%m|%G";

/// One kind of node in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    pub partition: String,
    pub cpus: u32,
    pub memory_mib: u64,
    /// GPUs per node by type; the type is empty where Slurm knows none.
    pub gpus: Vec<(String, u32)>,
}

/// # Errors
/// A line with another number of fields, or numbers that are none.
pub fn parse(stdout: &str) -> Result<Vec<Nodes>, ParseError> {
    let lines = stdout.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    lines
        .map(|(n, line)| {
            let wrong = || ParseError { command: "sinfo", line: n + 1, text: line.to_owned() };
            let fields: Vec<&str> = line.trim().splitn(4, '|').collect();
            let [partition, cpus, memory, gres] = fields[..] else { return Err(wrong()) };
            let cpus = cpus.trim_end_matches('+').parse().map_err(|_| wrong())?;
            let memory_mib = memory.trim_end_matches('+').parse().map_err(|_| wrong())?;
            Ok(Nodes { partition: partition.to_owned(), cpus, memory_mib, gpus: gpus(gres) })
        })
        .collect()
}

/// `gpu:v100:4(S:0-1),gpu:2,nvme:1`.
fn gpus(gres: &str) -> Vec<(String, u32)> {
    // a comma inside parentheses does not separate
    let mut depth = 0usize;
    let items = gres.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    items
        .filter_map(|item| {
            let item = item.split('(').next().unwrap_or(item).trim();
            let rest = item.strip_prefix("gpu:")?;
            let (kind, count) = rest.rsplit_once(':').unwrap_or(("", rest));
            Some((kind.to_owned(), count.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn node_kinds_are_read_with_their_gpus() {
        let text = "gpu|40|382000|gpu:v100:4(S:0-1),nvme:1\nbatch|128+|515000+|(null)\nmix|8|64000|gpu:2(IDX:0,1),gpu:a100:1\n";
        let nodes = parse(text).unwrap();
        assert_eq!(nodes[0].gpus, [("v100".to_owned(), 4)]);
        assert_eq!((nodes[1].cpus, nodes[1].memory_mib, nodes[1].gpus.len()), (128, 515_000, 0));
        assert_eq!(nodes[2].gpus, [(String::new(), 2), ("a100".to_owned(), 1)]);
        assert_eq!(parse("gpu|x|1|(null)\n").unwrap_err().line, 1);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,200}", gres in "[gpu:0-9a-z(),|]{0,40}") {
            let _ = (parse(&text), parse(&format!("p|1|1|{gres}")));
        }
    }
}
