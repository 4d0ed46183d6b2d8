//! `scontrol show config`: `Key                     = value`.

use std::collections::BTreeMap;

/// All settings; lines of another form (headings) are passed over.
#[must_use]
pub fn parse(stdout: &str) -> BTreeMap<String, String> {
    stdout
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .filter(|(key, _)| !key.is_empty() && !key.contains(' '))
        .collect()
}

/// `20 sec`, `2001`: the number in front.
#[must_use]
pub fn number(config: &BTreeMap<String, String>, key: &str) -> Option<u64> {
    config.get(key)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn settings_are_read_and_numbers_lose_their_unit() {
        let text = "Configuration data as of 2026-11-20T15:00:00\nMaxArraySize            = 2001\n\
                    MinJobAge               = 60 sec\nSLURM_VERSION           = 22.05.8\n\nCgroup Support Configuration:\n";
        let config = parse(text);
        assert_eq!(number(&config, "MaxArraySize"), Some(2001));
        assert_eq!(number(&config, "MinJobAge"), Some(60));
        assert_eq!(number(&config, "SLURM_VERSION"), None);
        assert_eq!(config.len(), 3);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,300}") { let _ = number(&parse(&text), "a"); }
    }
}
