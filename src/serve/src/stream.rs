//! Text of a running sequence that is safe to send: never a part of a stop text.

/// Holds back what may turn out to be the beginning of a stop text.
#[derive(Debug, Default)]
pub(crate) struct HoldBack {
    stops: Vec<String>,
    /// Decoded so far.
    text: String,
    /// Bytes of `text` already sent.
    sent: usize,
}

impl HoldBack {
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, ..Self::default() }
    }

    /// Adds newly decoded text and returns what can be sent now.
    pub fn push(&mut self, text: &str) -> String {
        self.text.push_str(text);
        let fresh = &self.text[self.sent..];
        let found = self.stops.iter().filter_map(|s| fresh.find(s.as_str())).min();
        let held = || {
            // longest suffix that begins some stop text
            let starts = fresh.char_indices().map(|(i, _)| i);
            starts.filter(|&i| self.stops.iter().any(|s| s.starts_with(&fresh[i..]))).min()
        };
        let end = self.sent + found.or_else(held).unwrap_or(fresh.len());
        let out = self.text[self.sent..end].to_owned();
        self.sent = end;
        out
    }

    /// The rest of the engine's final text.
    pub fn finish(&self, whole: &str) -> String {
        whole.get(self.sent..).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], parts: &[&str], whole: &str) -> (Vec<String>, String) {
        let mut h = HoldBack::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let sent: Vec<String> = parts.iter().map(|p| h.push(p)).collect();
        (sent, h.finish(whole))
    }

    #[test]
    fn text_without_stops_flows_through() {
        assert_eq!(run(&[], &["a", "b"], "ab"), (vec!["a".into(), "b".into()], String::new()));
    }

    #[test]
    fn the_beginning_of_a_stop_text_waits_for_the_rest() {
        let (sent, rest) = run(&["\n\n"], &["x\n", "y", "\n", "\n"], "x\ny");
        assert_eq!((sent.concat(), rest), ("x\ny".into(), String::new()));
        assert_eq!(sent, ["x", "\ny", "", ""]);
    }

    #[test]
    fn what_was_held_in_vain_comes_at_the_end() {
        let (sent, rest) = run(&["END"], &["abEN"], "abEN");
        assert_eq!((sent.concat(), rest), ("ab".into(), "EN".into()));
    }

    #[test]
    fn multi_byte_characters_are_not_cut() {
        let (sent, rest) = run(&["é!"], &["né", "e"], "née");
        assert_eq!(sent.concat() + &rest, "née");
    }
}
