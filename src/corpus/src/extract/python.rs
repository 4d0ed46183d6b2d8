//! Python programs around an extracted piece: function stubs in prompts, main guards, empty answers.

/// Name of the first function that a text defines at any indentation (`def NAME(`).
#[must_use]
pub fn entry_point(text: &str) -> Option<&str> {
    text.lines().find_map(defined_name)
}

fn defined_name(line: &str) -> Option<&str> {
    let rest = line.trim_start();
    let rest = rest.strip_prefix("async ").map_or(rest, str::trim_start);
    let rest = rest.strip_prefix("def ")?.trim_start();
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    (end > 0 && rest[end..].trim_start().starts_with('(')).then(|| &rest[..end])
}

/// Joins a prompt that ends inside a function (signature and docstring) with a completion.
///
/// A completion that defines the function itself replaces the stub; what the stub has above its `def` (imports,
/// helpers) is kept in both cases.
#[must_use]
pub fn with_stub(stub: &str, completion: &str) -> String {
    let name = entry_point(stub);
    let redefines = name.is_some_and(|n| {
        completion.lines().any(|l| !l.starts_with([' ', '\t']) && defined_name(l) == Some(n))
    });
    if redefines {
        let head: String = stub.split_inclusive('\n').take_while(|l| defined_name(l) != name).collect();
        return format!("{head}{completion}");
    }
    let gap = if stub.ends_with('\n') || completion.starts_with('\n') { "" } else { "\n" };
    format!("{stub}{gap}{completion}")
}

/// Appends a guard that calls `entry`, unless the program already runs itself: it mentions `__main__`, or one of its
/// last ten lines calls the function at top level (specs: SecureCodeRL 3).
#[must_use]
pub fn with_guard(code: &str, entry: &str) -> String {
    let call = format!("{entry}()");
    let runs_itself = code.contains("__main__")
        || code.lines().rev().take(10).any(|line| {
            let top_level = !line.starts_with([' ', '\t']) && !line.starts_with("def ");
            top_level && line.trim_end().ends_with(&call)
        });
    if runs_itself {
        return code.to_owned();
    }
    let gap = if code.ends_with('\n') { "" } else { "\n" };
    format!("{code}{gap}\nif __name__ == \"__main__\":\n    {call}\n")
}

/// Whether a program does nothing: only comments, strings, imports, `pass`, `...`, bare `return`, and function or class
/// headers. Such answers earn stage credit for running (specs: SecureCodeRL 21.14), so they are counted.
///
/// A judgement by lines, not by grammar: a multi-line expression counts as doing something.
#[must_use]
pub fn is_stub(code: &str) -> bool {
    let mut quote: Option<&str> = None;
    for line in code.lines() {
        let line = line.trim();
        if let Some(q) = quote {
            if line.ends_with(q) {
                quote = None;
            }
            continue;
        }
        if let Some(q) = ["\"\"\"", "'''"].into_iter().find(|q| line.starts_with(q)) {
            if line.len() < 6 || !line.ends_with(q) {
                quote = Some(q);
            }
            continue;
        }
        let does_nothing = line.is_empty()
            || line.starts_with(['#', '@'])
            || matches!(line, "pass" | "..." | "return" | "return None")
            || line.starts_with("import ")
            || line.starts_with("from ")
            || ((line.starts_with("def ") || line.starts_with("class ") || line.starts_with("async def "))
                && line.ends_with(':'));
        if !does_nothing {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_points_are_found_and_lookalikes_are_not() {
        assert_eq!(entry_point("import os\n\ndef solve (a):\n"), Some("solve"));
        assert_eq!(entry_point("    async def go(x):"), Some("go"));
        assert_eq!(entry_point("define(x)\ndefault = 3\n"), None);
    }

    #[test]
    fn a_completion_continues_the_stub_or_replaces_it() {
        let stub = "import math\n\ndef area(r):\n    \"\"\"Circle.\"\"\"\n";
        assert_eq!(
            with_stub(stub, "    return math.pi * r * r\n"),
            format!("{stub}    return math.pi * r * r\n")
        );
        let whole = "def area(r):\n    return 3\n";
        assert_eq!(with_stub(stub, whole), format!("import math\n\n{whole}"));
        // an inner function of the same name is no redefinition
        let inner = "    def area(r):\n        return 1\n    return area(r)\n";
        assert_eq!(with_stub(stub, inner), format!("{stub}{inner}"));
    }

    #[test]
    fn a_guard_is_added_once() {
        let code = "def solve():\n    print(1)";
        let guarded = with_guard(code, "solve");
        assert!(guarded.ends_with("\nif __name__ == \"__main__\":\n    solve()\n"), "{guarded}");
        assert_eq!(with_guard(&guarded, "solve"), guarded);
        let called = "def solve():\n    print(1)\nsolve()\n";
        assert_eq!(with_guard(called, "solve"), called);
        // a recursive call inside the function is not a call of the program
        let recursive = "def solve():\n    solve()\n";
        assert_ne!(with_guard(recursive, "solve"), recursive);
    }

    #[test]
    fn stubs_are_told_from_programs() {
        assert!(is_stub("def f(x):\n    '''Do it.\n    Now.'''\n    # later\n    pass\n"));
        assert!(is_stub("import sys\n\"\"\"all text\"\"\"\n"));
        assert!(!is_stub("def f(x):\n    \"\"\"Do it.\"\"\"\n    return x\n"));
        assert!(!is_stub("print(1)"));
    }
}
