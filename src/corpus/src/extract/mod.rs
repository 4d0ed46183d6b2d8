//! Code out of answers: one library for sampling, RL and evaluation, so that no two of them read an answer differently.
//!
//! A published recipe took the whole answer as the program, which made every Markdown fence a syntax error; another
//! deleted lines that looked like prose and with them real code (specs: SecureCodeRL 21.10, 21.11). Here nothing inside
//! a fence is ever changed, and an answer without fences is taken whole.

mod detect;
mod fence;
mod python;

pub use detect::{Detected, detect};
pub use fence::{Block, blocks};
pub use python::{entry_point, is_stub, with_guard, with_stub};

/// Which of several fenced blocks is the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pick {
    /// The last one that is no snippet: at least a third as long as the longest. An answer works towards its program (measured
    /// on published answers with several blocks, docs/AGREEMENT.md), and examples of use behind it are short.
    #[default]
    Final,
    /// The one with the most characters.
    Longest,
    First,
    Last,
}

/// Where a program was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A fenced block in the wanted language.
    Tagged,
    /// A fenced block without a language.
    Untagged,
    /// No fence at all: the answer itself.
    Whole,
}

/// A program found in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    pub code: String,
    pub how: How,
    /// The fence was never closed: the answer was probably cut by the token limit.
    pub unclosed: bool,
}

/// Finds the program of `language` (`python`, `c`, ...) in an answer.
///
/// Tagged blocks come before untagged ones. Without any fence the whole answer is the program. `None` where the answer
/// is blank or holds blocks of other languages only: then there is no program, which is not the same as a wrong one.
#[must_use]
pub fn program(answer: &str, language: &str, pick: Pick) -> Option<Extracted> {
    let answer = final_part(answer);
    let all = blocks(answer);
    if all.is_empty() {
        let code = answer.trim_matches('\n').trim_end();
        return (!code.trim().is_empty()).then(|| Extracted {
            code: code.to_owned(),
            how: How::Whole,
            unclosed: false,
        });
    }
    let wanted = |how| {
        let of_kind: Vec<&Block> = all
            .iter()
            .filter(|b| !b.code.trim().is_empty())
            .filter(|b| match how {
                How::Tagged => same_language(&b.language, language),
                // a block that is plainly in another language is not taken for want of a tag
                _ => b.language.is_empty() && detect(&b.code).is_none_or(|d| d.may_be(language)),
            })
            .collect();
        let best = match pick {
            Pick::Final => {
                let longest = of_kind.iter().map(|b| b.code.trim().len()).max().unwrap_or(0);
                of_kind.iter().rev().find(|b| b.code.trim().len() * 3 >= longest).copied()
            }
            // max_by_key returns the last maximum; the first block wins a tie
            Pick::Longest => of_kind.iter().rev().max_by_key(|b| b.code.len()).copied(),
            Pick::First => of_kind.first().copied(),
            Pick::Last => of_kind.last().copied(),
        };
        best.map(|b| Extracted { code: b.code.clone(), how, unclosed: !b.closed })
    };
    wanted(How::Tagged).or_else(|| wanted(How::Untagged))
}

/// The blocks of an answer that are tagged as Python, in order, blank ones included: what a static analyzer looks at,
/// one by one (specs: PurpCode 3, D5).
#[must_use]
pub fn python_blocks(answer: &str) -> Vec<String> {
    let tagged = blocks(final_part(answer)).into_iter().filter(|b| same_language(&b.language, "python"));
    tagged.map(|b| b.code).collect()
}

/// What a problem says about the shape of its programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape<'a> {
    /// Language; `None`: as the answer's tags or the text itself say, else Python.
    pub language: Option<&'a str>,
    /// A prompt that ends inside a function; completions go on from there.
    pub stub: Option<&'a str>,
    /// Code in front of every program, such as imports.
    pub prefix: Option<&'a str>,
    /// A function that the program must call when it is run.
    pub guard: Option<&'a str>,
}

/// What a model gave, by how much of it is code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given<'a> {
    /// A program, as it is.
    Code(&'a str),
    /// The continuation of the problem's stub.
    Completion(&'a str),
    /// An answer in prose and fences.
    Response(&'a str),
}

/// A program ready to run, and its language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub code: String,
    pub language: String,
    /// Where it was found in a response.
    pub how: Option<How>,
}

/// The program that somebody gave for a problem: the one way from answers to programs, for sampling, RL, evaluation
/// and scoring alike (specs: PurpCode D10). `None`: there is no program in it.
#[must_use]
pub fn assemble(given: Given<'_>, shape: &Shape<'_>) -> Option<Program> {
    let (mut code, how, language) = match given {
        Given::Code(code) => (code.to_owned(), None, shape.language.unwrap_or("python").to_owned()),
        Given::Completion(text) => {
            let stub = shape.stub.unwrap_or_default();
            (with_stub(stub, text), None, shape.language.unwrap_or("python").to_owned())
        }
        Given::Response(answer) => {
            let language = shape.language.map_or_else(|| language_of(answer), str::to_owned);
            let found = program(answer, &language, Pick::default())?;
            let code = match shape.stub {
                // a whole function replaces the stub, a body continues it
                Some(stub) => with_stub(stub, &found.code),
                None => found.code,
            };
            (code, Some(found.how), language)
        }
    };
    if code.trim().is_empty() {
        return None;
    }
    if let Some(prefix) = shape.prefix.filter(|p| !p.is_empty()) {
        let gap = if prefix.ends_with('\n') { "" } else { "\n" };
        code = format!("{prefix}{gap}{code}");
    }
    if let Some(entry) = shape.guard {
        code = with_guard(&code, entry);
    }
    Some(Program { code, language, how })
}

/// The language of an answer by its first tag that names one we know, else by its text, else Python.
fn language_of(answer: &str) -> String {
    let part = final_part(answer);
    let all = blocks(part);
    let known = ["python", "c", "cpp", "rust", "nodejs", "bash"];
    let tag = all.iter().find_map(|b| known.iter().find(|k| same_language(&b.language, k)));
    if let Some(tag) = tag {
        return (*tag).to_owned();
    }
    let text = all.first().map_or(part, |b| b.code.as_str());
    match detect(text) {
        Some(Detected::C) => "c".to_owned(),
        _ => "python".to_owned(),
    }
}

/// The part of an answer that counts: what follows the last `</think>`, without `<answer>` tags, and what follows the
/// heading `# Answer` where there is one (specs: evals 2.3). An answer without these markers stays whole.
#[must_use]
pub fn final_part(answer: &str) -> &str {
    let mut rest = answer.rsplit_once("</think>").map_or(answer, |(_, after)| after);
    if let Some(inner) = rest.trim_start().strip_prefix("<answer>") {
        rest = inner;
    }
    if let Some(inner) = rest.trim_end().strip_suffix("</answer>") {
        rest = inner;
    }
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        at += line.len();
        // a comment inside a fence may read the same; headings come before the code
        if line.trim_start().starts_with("```") {
            break;
        }
        if matches!(line.trim(), "# Answer" | "## Answer") {
            return &rest[at..];
        }
    }
    rest
}

/// Whether a fence's info string names the language.
fn same_language(tag: &str, language: &str) -> bool {
    let canonical = |name: &str| -> String {
        match name.to_ascii_lowercase().as_str() {
            "py" | "py3" | "python3" | "python" => "python".to_owned(),
            "c++" | "cpp" | "cc" | "cxx" => "cpp".to_owned(),
            "js" | "javascript" | "node" | "nodejs" => "javascript".to_owned(),
            "sh" | "bash" | "shell" => "shell".to_owned(),
            "rs" | "rust" => "rust".to_owned(),
            other => other.to_owned(),
        }
    };
    canonical(tag) == canonical(language)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(answer: &str) -> Option<(String, How, bool)> {
        program(answer, "python", Pick::Longest).map(|e| (e.code, e.how, e.unclosed))
    }

    #[test]
    fn a_bare_answer_is_taken_whole_with_its_indentation() {
        assert_eq!(python("\n\nx = 1\nprint(x)\n\n"), Some(("x = 1\nprint(x)".into(), How::Whole, false)));
        assert_eq!(python(" \n\n"), None);
    }

    #[test]
    fn the_longest_tagged_block_wins_over_untagged_and_foreign_ones() {
        let answer = "Run it:\n```bash\npython3 a_very_long_command_line_that_is_no_python.py\n```\n\
                      ```\nuntagged but long, long, long\n```\n\
                      ```python\nprint(1)\n```\nor\n```py\nprint(1 + 1)\n```\n";
        assert_eq!(python(answer), Some(("print(1 + 1)\n".into(), How::Tagged, false)));
        assert_eq!(program(answer, "python", Pick::First).unwrap().code, "print(1)\n");
        assert_eq!(program(answer, "sh", Pick::Last).unwrap().how, How::Tagged);
    }

    #[test]
    fn the_last_block_that_is_no_snippet_is_the_program() {
        let draft =
            "```python\n# a first idea that is longer than what comes of it in the end\nprint(0)\n```\n";
        let last = "```python\nn = int(input())\nprint(n * 2)\n```\n";
        let usage = "Run it:\n```python\nf(3)\n```\n";
        let answer = format!("{draft}Better:\n{last}{usage}");
        assert_eq!(program(&answer, "python", Pick::Final).unwrap().code, "n = int(input())\nprint(n * 2)\n");
        assert_eq!(program(usage, "python", Pick::Final).unwrap().code, "f(3)\n");
    }

    #[test]
    fn an_untagged_block_is_second_choice_and_a_foreign_one_is_none() {
        assert_eq!(python("```\nprint(2)\n```"), Some(("print(2)\n".into(), How::Untagged, false)));
        assert_eq!(python("```java\nclass A {}\n```"), None);
    }

    #[test]
    fn a_cut_answer_keeps_what_there_is_and_says_so() {
        assert_eq!(python("Sure:\n```python\nprint(3"), Some(("print(3".into(), How::Tagged, true)));
    }

    #[test]
    fn thoughts_and_answer_tags_are_left_out() {
        let answer = "<think>\n```python\nprint('no, this is far too long')\n```\n</think>\n<answer>```python\nprint(4)\n```</answer>";
        assert_eq!(python(answer).unwrap().0, "print(4)\n");
        assert_eq!(python("plan\n## Answer\nprint(5)\n").unwrap().0, "print(5)");
        let heading_in_code = "```python\n# Answer\nprint(6)\n```";
        assert_eq!(python(heading_in_code).unwrap().0, "# Answer\nprint(6)\n");
    }

    #[test]
    fn an_untagged_block_in_another_language_is_no_program_of_ours() {
        let c = "```\n#include <stdio.h>\nint main() { printf(\"1\"); return 0; }\n```";
        assert_eq!(python(c), None);
        assert_eq!(program(c, "c", Pick::Longest).unwrap().how, How::Untagged);
        let given = assemble(Given::Response(c), &Shape::default()).unwrap();
        assert_eq!(given.language, "c");
    }

    #[test]
    fn one_way_leads_from_any_answer_to_a_program() {
        let stub = "import math\ndef area(r):\n    \"\"\"Circle.\"\"\"\n";
        let shape = Shape { stub: Some(stub), prefix: Some("import os"), ..Shape::default() };
        let body = "    return math.pi * r * r\n";
        let whole = "def area(r):\n    return 3 * r * r\n";
        let code = |given| assemble(given, &shape).unwrap().code;
        assert_eq!(code(Given::Completion(body)), format!("import os\n{stub}{body}"));
        let fenced = format!("Sure:\n```python\n{whole}```");
        assert_eq!(code(Given::Response(&fenced)), format!("import os\nimport math\n{whole}"));
        assert_eq!(code(Given::Code(whole)), format!("import os\n{whole}"));
        let guarded = Shape { guard: Some("go"), ..Shape::default() };
        assert!(
            assemble(Given::Code("def go():\n    print(1)"), &guarded).unwrap().code.contains("__main__")
        );
        assert_eq!(assemble(Given::Response("```java\nclass A {}\n```"), &guarded), None);
        assert_eq!(assemble(Given::Code("  \n"), &guarded), None);
        assert_eq!(
            assemble(Given::Response("```rs\nfn main() {}\n```"), &Shape::default()).unwrap().language,
            "rust"
        );
    }

    #[test]
    fn analyzers_get_the_python_blocks_one_by_one() {
        let answer = "```python\na\n```\n```bash\nrm\n```\n```python\n\n```\n```\nb\n```";
        assert_eq!(python_blocks(answer), ["a\n", "\n"]);
    }

    #[test]
    fn code_that_prints_prose_is_not_touched() {
        let code = "if __name__ == '__main__':\n    print('output: here is the example:')\n";
        assert_eq!(python(&format!("```python\n{code}```")).unwrap().0, code);
    }
}
