//! `scontrol ping`: `Slurmctld(primary) at host is UP`, one line per controller.

/// Whether any controller answers; `None` where no line says anything about one.
#[must_use]
pub fn parse(stdout: &str) -> Option<bool> {
    let ends: Vec<bool> = stdout
        .lines()
        .filter(|l| l.starts_with("Slurmctld"))
        .filter_map(|l| match l.trim_end().rsplit(' ').next() {
            Some("UP") => Some(true),
            Some("DOWN") => Some(false),
            _ => None,
        })
        .collect();
    (!ends.is_empty()).then(|| ends.contains(&true))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn one_controller_that_answers_is_enough() {
        assert_eq!(parse("Slurmctld(primary) at vm is DOWN\n"), Some(false));
        assert_eq!(parse("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n"), Some(true));
        assert_eq!(parse("Slurmctld(primary/backup) at a/b are UP/DOWN\nhello\n"), None);
        assert_eq!(parse(""), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,200}") { let _ = parse(&text); }
    }
}
