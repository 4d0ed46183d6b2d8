//! Fenced code blocks of Markdown.

/// One fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// First word of the info string, as written; empty where there is none.
    pub language: String,
    /// The lines between the fences, the fence's own indentation removed.
    pub code: String,
    /// Whether a closing fence was found.
    pub closed: bool,
}

/// All fenced blocks of a text, in order. Fences are three or more backticks or tildes, as in CommonMark, but at any
/// indentation, since models put them into list items; a closing fence may also stand at the end of a code line before
/// a tag (`print(1)` + three backticks), where models forget the line break only at the very end of an answer.
#[must_use]
pub fn blocks(text: &str) -> Vec<Block> {
    let mut out = Vec::new();
    let mut open: Option<(Fence, Block)> = None;
    for line in text.split_inclusive('\n') {
        match open.take() {
            None => {
                if let Some(fence) = Fence::opens(line) {
                    let language = fence.language.clone();
                    open = Some((fence, Block { language, code: String::new(), closed: false }));
                }
            }
            Some((fence, mut block)) => {
                if fence.closes(line) {
                    block.closed = true;
                    out.push(block);
                } else {
                    block.code.push_str(without_indent(line, fence.indent));
                    open = Some((fence, block));
                }
            }
        }
    }
    if let Some((fence, mut block)) = open {
        if let Some(code) = block.code.trim_end().strip_suffix(&fence.marker()) {
            block.code = format!("{code}\n");
            block.closed = true;
        }
        out.push(block);
    }
    out
}

struct Fence {
    character: char,
    length: usize,
    indent: usize,
    language: String,
}

impl Fence {
    fn opens(line: &str) -> Option<Self> {
        let trimmed = line.trim_start_matches([' ', '\t']);
        let character = trimmed.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let length = trimmed.chars().take_while(|c| *c == character).count();
        let info = trimmed[length..].trim();
        // a backtick in the info string means inline code, not a fence
        if length < 3 || (character == '`' && info.contains('`')) {
            return None;
        }
        let word = info.split_whitespace().next().unwrap_or("");
        let language = word.trim_start_matches(['{', '.']).trim_end_matches(['}', ',', ':']).to_owned();
        Some(Self { character, length, indent: line.len() - trimmed.len(), language })
    }

    fn closes(&self, line: &str) -> bool {
        let line = line.trim();
        line.len() >= self.length && line.chars().all(|c| c == self.character)
    }

    fn marker(&self) -> String {
        self.character.to_string().repeat(self.length)
    }
}

/// Removes up to `n` characters of leading blanks.
fn without_indent(line: &str, n: usize) -> &str {
    let blanks = line.bytes().take(n).take_while(|b| matches!(b, b' ' | b'\t')).count();
    &line[blanks..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<(String, String, bool)> {
        blocks(text).into_iter().map(|b| (b.language, b.code, b.closed)).collect()
    }

    #[test]
    fn longer_fences_hold_shorter_ones() {
        let text = "````md\n```python\nx\n```\n````\n";
        assert_eq!(codes(text), [("md".into(), "```python\nx\n```\n".into(), true)]);
    }

    #[test]
    fn indented_fences_lose_their_own_indent_only() {
        let text = "1. so:\n   ```python\n   if x:\n       y\n   ```\n";
        assert_eq!(codes(text), [("python".into(), "if x:\n    y\n".into(), true)]);
    }

    #[test]
    fn inline_code_is_no_fence_and_tildes_are() {
        assert_eq!(codes("```not a fence``` at all\n"), []);
        assert_eq!(codes("~~~ {.python}\nx\n~~~\n"), [("python".into(), "x\n".into(), true)]);
    }

    #[test]
    fn a_fence_glued_to_the_last_line_still_closes() {
        assert_eq!(codes("```python\nprint(1)```"), [("python".into(), "print(1)\n".into(), true)]);
    }
}
