//! `qsub`: `12.pbs1`.

/// The id: the last line of its form (ids start at 0; the server's name is part of it). `None` if there is none.
#[must_use]
pub fn parse(stdout: &str) -> Option<String> {
    stdout.lines().rev().map(str::trim).find(|l| is_id(l)).map(str::to_owned)
}

/// `12`, `12.server.domain`, `12[].server`, `12[3].server`.
pub(super) fn is_id(text: &str) -> bool {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = &text[digits..];
    let rest = match rest.strip_prefix('[') {
        None => rest,
        Some(r) => match r.split_once(']') {
            Some((index, r)) if index.bytes().all(|b| b.is_ascii_digit()) => r,
            _ => return false,
        },
    };
    let server =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    (1..=12).contains(&digits) && (rest.is_empty() || rest.strip_prefix('.').is_some_and(server))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn ids_keep_their_server_and_banners_are_passed_over() {
        assert_eq!(parse("12.pbs1\n").as_deref(), Some("12.pbs1"));
        assert_eq!(parse("0.pbs1\n").as_deref(), Some("0.pbs1"));
        assert_eq!(parse("Budget: 3 left\n26[].host.uni.edu\n\n").as_deref(), Some("26[].host.uni.edu"));
        assert_eq!(parse("700\n").as_deref(), Some("700"));
        for none in ["", "qsub: Unknown queue", "12.", "12[x].s", "12.a b", "[].s", "-1"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,200}", idish in "[0-9.\\[\\]a-z]{0,20}") { let _ = (parse(&text), parse(&idish)); }
    }
}
