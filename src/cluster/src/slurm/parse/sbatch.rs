//! `sbatch --parsable`: `4711` or `4711;cluster`.

/// Id and cluster of an accepted job. Sites wrap sbatch and print banners, so it is the *last* line that has the form
/// (specs: F7); `None` if there is none.
#[must_use]
pub fn parse(stdout: &str) -> Option<(String, Option<String>)> {
    stdout.lines().rev().find_map(parsable).or_else(|| stdout.lines().rev().find_map(sentence))
}

fn is_id(s: &str) -> bool {
    !s.is_empty() && s.len() <= 10 && s.bytes().all(|b| b.is_ascii_digit())
}

fn is_cluster(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn parsable(line: &str) -> Option<(String, Option<String>)> {
    match line.trim().split_once(';') {
        None => is_id(line.trim()).then(|| (line.trim().to_owned(), None)),
        Some((id, cluster)) => {
            (is_id(id) && is_cluster(cluster)).then(|| (id.to_owned(), Some(cluster.to_owned())))
        }
    }
}

/// Without `--parsable` (a wrapper may drop it): `Submitted batch job 4711 on cluster lab`.
fn sentence(line: &str) -> Option<(String, Option<String>)> {
    let mut words = line.trim().strip_prefix("Submitted batch job ")?.split(' ');
    let id = words.next().filter(|w| is_id(w))?;
    let cluster = match (words.next(), words.next(), words.next()) {
        (Some("on"), Some("cluster"), Some(c)) if is_cluster(c) => Some(c.to_owned()),
        _ => None,
    };
    Some((id.to_owned(), cluster))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn ids_are_found_behind_banners_and_nowhere_else() {
        let id = |i: &str| Some((i.to_owned(), None));
        let on = |i: &str, c: &str| Some((i.to_owned(), Some(c.to_owned())));
        assert_eq!(parse("12345\n"), id("12345"));
        assert_eq!(parse("12345;lab2\n"), on("12345", "lab2"));
        assert_eq!(parse("Welcome! 2 SUs will be charged\n99\n12345;a-b.c\n\n"), on("12345", "a-b.c"));
        assert_eq!(parse("Submitted batch job 7\n"), id("7"));
        assert_eq!(parse("Submitted batch job 7 on cluster lab\n"), on("7", "lab"));
        for none in ["", "\n", "sbatch: ok", "12 34", "-5", "12345;", ";lab", "12345;a b", "job 5"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,200}") { let _ = parse(&text); }
    }
}
