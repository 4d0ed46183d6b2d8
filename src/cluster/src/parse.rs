//! What all parsers share.

/// A line that is not what the command prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of {command}'s output is not understood: {text:?}")]
pub struct ParseError {
    pub command: &'static str,
    /// From 1.
    pub line: usize,
    pub text: String,
}

/// Field separator that appears in no name, state or reason (ASCII unit separator; specs: F18).
pub const SEPARATOR: char = '\u{1f}';

/// `Unknown`, `N/A`, `None`, empty: nothing. With `SLURM_TIME_FORMAT=%s` the rest is seconds since the epoch.
pub(crate) fn epoch(text: &str) -> Option<i64> {
    text.trim().parse().ok().filter(|t| *t > 0)
}

/// Node names of `n1`, `n[1-3,07],gpu5`; what is no host name (`None assigned`, `(null)`) is no node.
#[must_use]
pub fn hosts(list: &str) -> Vec<String> {
    let mut out = Vec::new();
    let (mut start, mut depth) = (0, 0usize);
    for (i, c) in list.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                one(&list[start..i], &mut out);
                start = i + 1;
            }
            _ => {}
        }
    }
    one(&list[start..], &mut out);
    out
}

/// Most names that one list is unfolded to: jobs here have one node, so more is somebody else's business.
const MOST_HOSTS: usize = 4096;

fn one(item: &str, out: &mut Vec<String>) {
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let item = item.trim();
    let Some((prefix, rest)) = item.split_once('[') else {
        if !item.is_empty() && plain(item) {
            out.push(item.to_owned());
        }
        return;
    };
    let Some((inner, suffix)) = rest.split_once(']') else { return };
    if !plain(prefix) || !plain(suffix) {
        return;
    }
    for part in inner.split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (Ok(from), Ok(to)) = (a.parse::<u32>(), b.parse::<u32>()) else { continue };
        for n in from..=to {
            if out.len() >= MOST_HOSTS {
                return;
            }
            out.push(format!("{prefix}{n:0width$}{suffix}", width = a.len()));
        }
    }
}

/// Indices of `3`, `0-4`, `1-9:2`, `1,3-5`, each with an optional `%limit` behind; `None` where the text was cut
/// (`...`) or is no such list.
pub(crate) fn indices(text: &str) -> Option<Vec<u32>> {
    const MOST: usize = 4_000_000;
    let list = text.split('%').next().unwrap_or(text);
    let mut out = Vec::new();
    for part in list.split(',') {
        let (range, step) = match part.split_once(':') {
            Some((r, s)) => (r, s.parse::<u32>().ok().filter(|s| *s > 0)?),
            None => (part, 1),
        };
        let (a, b) = range.split_once('-').unwrap_or((range, range));
        let (from, to) = (a.parse::<u32>().ok()?, b.parse::<u32>().ok()?);
        if from > to || (to - from) as usize / step as usize + out.len() > MOST {
            return None;
        }
        out.extend((from..=to).step_by(step as usize));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_lists_unfold_and_placeholders_are_no_hosts() {
        assert_eq!(hosts("n[1-3,07],gpu5"), ["n1", "n2", "n3", "n07", "gpu5"]);
        assert_eq!(hosts("rack[08-10]-x"), ["rack08-x", "rack09-x", "rack10-x"]);
        for none in ["", "None assigned", "(null)", "n[1-", "(ReqNodeNotAvail, UnavailableNodes:n4)"] {
            assert_eq!(hosts(none), Vec::<String>::new(), "{none}");
        }
        assert_eq!(hosts("n[0-4294967295]").len(), MOST_HOSTS);
    }

    #[test]
    fn index_lists_unfold_and_cut_ones_are_refused() {
        assert_eq!(indices("2-3%2"), Some(vec![2, 3]));
        assert_eq!(indices("1-9:4,11"), Some(vec![1, 5, 9, 11]));
        for bad in ["", "0-3,6...", "5-1", "1:0", "a", "0-4294967295"] {
            assert_eq!(indices(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_list_panics(text in "\\PC{0,60}", listish in "[n0-9,\\[\\]:%.-]{0,40}") {
            let _ = (hosts(&text), indices(&text), hosts(&listish), indices(&listish));
        }
    }
}
