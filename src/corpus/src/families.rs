//! The problem families of the project's own set: one table row each.
//!
//! Every statement carries constants that the answer must copy, so that new constants are a real test of
//! generalisation. Every wrong program is one that a careless programmer writes (`>` for `>=`, minimum for maximum); its
//! meaning is also given here in Rust, so that the generator can see to it that the tests tell it from the right one.

/// The meaning of a program: its input numbers and the statement's constants to the text that it prints.
pub(crate) type Meaning = fn(&[i64], &[i64]) -> String;

/// One kind of problem. `{0}` and `{1}` in the texts stand for the constants.
pub(crate) struct Family {
    pub name: &'static str,
    /// Whether training may have it; the others are only ever held out.
    pub trained: bool,
    /// Number of constants.
    pub constants: usize,
    pub phrasings: &'static [&'static str],
    /// The last line of the reference; the first reads the numbers into `a`.
    pub reference: &'static str,
    pub meaning: Meaning,
    /// Last lines of wrong programs, with their meanings.
    pub wrong: &'static [(&'static str, Meaning)],
}

/// First line of every program.
pub(crate) const READ: &str = "a = list(map(int, input().split()))";

fn text(n: i64) -> String {
    n.to_string()
}
fn count(a: &[i64], keep: impl Fn(i64) -> bool) -> String {
    a.iter().filter(|x| keep(**x)).count().to_string()
}
fn sum(a: &[i64], keep: impl Fn(i64) -> bool) -> String {
    text(a.iter().copied().filter(|x| keep(*x)).sum())
}
fn total(a: &[i64]) -> i64 {
    a.iter().sum()
}
fn largest(a: &[i64]) -> i64 {
    a.iter().copied().max().unwrap_or(0)
}
fn smallest(a: &[i64]) -> i64 {
    a.iter().copied().min().unwrap_or(0)
}
fn list(items: impl Iterator<Item = i64>) -> String {
    items.map(text).collect::<Vec<_>>().join(" ")
}
fn kept(a: &[i64], keep: impl Fn(i64) -> bool) -> String {
    list(a.iter().copied().filter(|x| keep(*x)))
}

pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "count-greater",
        trained: true,
        constants: 1,
        phrasings: &["Print how many numbers are greater than {0}.", "Count the numbers above {0}."],
        reference: "print(sum(x > {0} for x in a))",
        meaning: |a, k| count(a, |x| x > k[0]),
        wrong: &[
            ("print(sum(x >= {0} for x in a))", |a, k| count(a, |x| x >= k[0])),
            ("print(sum(x < {0} for x in a))", |a, k| count(a, |x| x < k[0])),
        ],
    },
    Family {
        name: "count-less",
        trained: true,
        constants: 1,
        phrasings: &["Print how many numbers are less than {0}.", "Count the numbers below {0}."],
        reference: "print(sum(x < {0} for x in a))",
        meaning: |a, k| count(a, |x| x < k[0]),
        wrong: &[
            ("print(sum(x <= {0} for x in a))", |a, k| count(a, |x| x <= k[0])),
            ("print(sum(x > {0} for x in a))", |a, k| count(a, |x| x > k[0])),
        ],
    },
    Family {
        name: "count-at-least",
        trained: true,
        constants: 1,
        phrasings: &["Print how many numbers are at least {0}.", "Count the numbers not smaller than {0}."],
        reference: "print(sum(x >= {0} for x in a))",
        meaning: |a, k| count(a, |x| x >= k[0]),
        wrong: &[
            ("print(sum(x > {0} for x in a))", |a, k| count(a, |x| x > k[0])),
            ("print(sum(x <= {0} for x in a))", |a, k| count(a, |x| x <= k[0])),
        ],
    },
    Family {
        name: "count-equal",
        trained: true,
        constants: 1,
        phrasings: &["Print how many numbers are equal to {0}.", "Count how often {0} occurs."],
        reference: "print(a.count({0}))",
        meaning: |a, k| count(a, |x| x == k[0]),
        wrong: &[
            ("print(len(a) - a.count({0}))", |a, k| count(a, |x| x != k[0])),
            ("print({0} in a)", |a, k| if a.contains(&k[0]) { "True".into() } else { "False".into() }),
        ],
    },
    Family {
        name: "count-multiples",
        trained: true,
        constants: 1,
        phrasings: &["Print how many numbers are divisible by {0}.", "Count the multiples of {0}."],
        reference: "print(sum(x % {0} == 0 for x in a))",
        meaning: |a, k| count(a, |x| x.rem_euclid(k[0]) == 0),
        wrong: &[
            ("print(sum(x % {0} for x in a))", |a, k| text(a.iter().map(|x| x.rem_euclid(k[0])).sum())),
            ("print(sum(x % {0} != 0 for x in a))", |a, k| count(a, |x| x.rem_euclid(k[0]) != 0)),
        ],
    },
    Family {
        name: "sum-plus",
        trained: true,
        constants: 1,
        phrasings: &["Print the sum of the numbers plus {0}.", "Add up the numbers, add {0} and print it."],
        reference: "print(sum(a) + {0})",
        meaning: |a, k| text(total(a) + k[0]),
        wrong: &[
            ("print(sum(a) - {0})", |a, k| text(total(a) - k[0])),
            ("print(max(a) + {0})", |a, k| text(largest(a) + k[0])),
        ],
    },
    Family {
        name: "sum-modulo",
        trained: true,
        constants: 1,
        phrasings: &[
            "Print the sum of the numbers modulo {0}.",
            "Print what is left of the sum after dividing by {0}.",
        ],
        reference: "print(sum(a) % {0})",
        meaning: |a, k| text(total(a).rem_euclid(k[0])),
        wrong: &[
            ("print(sum(a) // {0})", |a, k| text(total(a).div_euclid(k[0]))),
            ("print(max(a) % {0})", |a, k| text(largest(a).rem_euclid(k[0]))),
        ],
    },
    Family {
        name: "sum-greater",
        trained: true,
        constants: 1,
        phrasings: &["Print the sum of the numbers greater than {0}.", "Add up the numbers above {0}."],
        reference: "print(sum(x for x in a if x > {0}))",
        meaning: |a, k| sum(a, |x| x > k[0]),
        wrong: &[
            ("print(sum(x for x in a if x >= {0}))", |a, k| sum(a, |x| x >= k[0])),
            ("print(sum(x > {0} for x in a))", |a, k| count(a, |x| x > k[0])),
        ],
    },
    Family {
        name: "max-minus",
        trained: true,
        constants: 1,
        phrasings: &["Print the largest number minus {0}.", "Subtract {0} from the maximum."],
        reference: "print(max(a) - {0})",
        meaning: |a, k| text(largest(a) - k[0]),
        wrong: &[
            ("print(min(a) - {0})", |a, k| text(smallest(a) - k[0])),
            ("print({0} - max(a))", |a, k| text(k[0] - largest(a))),
        ],
    },
    Family {
        name: "min-plus",
        trained: true,
        constants: 1,
        phrasings: &["Print the smallest number plus {0}.", "Add {0} to the minimum."],
        reference: "print(min(a) + {0})",
        meaning: |a, k| text(smallest(a) + k[0]),
        wrong: &[
            ("print(max(a) + {0})", |a, k| text(largest(a) + k[0])),
            ("print(min(a) - {0})", |a, k| text(smallest(a) - k[0])),
        ],
    },
    Family {
        name: "scale-each",
        trained: true,
        constants: 1,
        phrasings: &["Print each number times {0}.", "Multiply each number by {0}."],
        reference: "print(*[x * {0} for x in a])",
        meaning: |a, k| list(a.iter().map(|x| x * k[0])),
        wrong: &[
            ("print(*[x + {0} for x in a])", |a, k| list(a.iter().map(|x| x + k[0]))),
            ("print(sum(a) * {0})", |a, k| text(total(a) * k[0])),
        ],
    },
    Family {
        name: "keep-greater",
        trained: true,
        constants: 1,
        phrasings: &[
            "Print the numbers greater than {0} in order.",
            "Drop the numbers up to {0}, print the rest.",
        ],
        reference: "print(*[x for x in a if x > {0}])",
        meaning: |a, k| kept(a, |x| x > k[0]),
        wrong: &[
            ("print(*[x for x in a if x >= {0}])", |a, k| kept(a, |x| x >= k[0])),
            ("print(*[x for x in a if x < {0}])", |a, k| kept(a, |x| x < k[0])),
        ],
    },
    // Never trained on. Some only recombine parts that training has (largest + plus), some need something new.
    Family {
        name: "max-plus",
        trained: false,
        constants: 1,
        phrasings: &["Print the largest number plus {0}.", "Add {0} to the maximum."],
        reference: "print(max(a) + {0})",
        meaning: |a, k| text(largest(a) + k[0]),
        wrong: &[("print(min(a) + {0})", |a, k| text(smallest(a) + k[0]))],
    },
    Family {
        name: "sum-less",
        trained: false,
        constants: 1,
        phrasings: &["Print the sum of the numbers less than {0}.", "Add up the numbers below {0}."],
        reference: "print(sum(x for x in a if x < {0}))",
        meaning: |a, k| sum(a, |x| x < k[0]),
        wrong: &[("print(sum(x for x in a if x <= {0}))", |a, k| sum(a, |x| x <= k[0]))],
    },
    Family {
        name: "keep-less",
        trained: false,
        constants: 1,
        phrasings: &[
            "Print the numbers less than {0} in order.",
            "Drop the numbers from {0} up, print the rest.",
        ],
        reference: "print(*[x for x in a if x < {0}])",
        meaning: |a, k| kept(a, |x| x < k[0]),
        wrong: &[("print(*[x for x in a if x <= {0}])", |a, k| kept(a, |x| x <= k[0]))],
    },
    Family {
        name: "count-between",
        trained: false,
        constants: 2,
        phrasings: &["Print how many numbers are greater than {0} and less than {1}."],
        reference: "print(sum({0} < x < {1} for x in a))",
        meaning: |a, k| count(a, |x| k[0] < x && x < k[1]),
        wrong: &[("print(sum({0} <= x <= {1} for x in a))", |a, k| count(a, |x| k[0] <= x && x <= k[1]))],
    },
    Family {
        name: "spread-times",
        trained: false,
        constants: 1,
        phrasings: &["Print the difference of the largest and the smallest number times {0}."],
        reference: "print((max(a) - min(a)) * {0})",
        meaning: |a, k| text((largest(a) - smallest(a)) * k[0]),
        wrong: &[("print((max(a) + min(a)) * {0})", |a, k| text((largest(a) + smallest(a)) * k[0]))],
    },
];

/// Puts the constants into a text.
pub(crate) fn fill(template: &str, values: &[i64]) -> String {
    values
        .iter()
        .enumerate()
        .fold(template.to_owned(), |text, (i, v)| text.replace(&format!("{{{i}}}"), &v.to_string()))
}

/// The whole program around a last line.
pub(crate) fn program(last_line: &str, values: &[i64]) -> String {
    format!("{READ}\n{}\n", fill(last_line, values))
}

/// Careless ways to break a right program: each stops on another rung of the ladder of partial credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breakage {
    /// The last bracket is missing: it does not parse.
    Bracket,
    /// The numbers are read into a variable that the last line does not use: it crashes.
    Name,
    /// The result is computed and never printed: it runs in silence.
    Silence,
}

impl Breakage {
    pub const ALL: [Breakage; 3] = [Breakage::Bracket, Breakage::Name, Breakage::Silence];

    /// The broken program around a reference's last line.
    pub fn of(self, reference: &str, values: &[i64]) -> String {
        let whole = program(reference, values);
        match self {
            Breakage::Bracket => format!("{}\n", whole.trim_end().strip_suffix(')').unwrap_or(&whole)),
            Breakage::Name => whole.replacen("a =", "b =", 1),
            Breakage::Silence => {
                let inner = reference.strip_prefix("print(").and_then(|r| r.strip_suffix(')'));
                program(inner.unwrap_or(reference).trim_start_matches('*'), values)
            }
        }
    }
}

/// The whole statement.
pub(crate) fn statement(phrasing: &str, values: &[i64]) -> String {
    format!("Read integers from one line. {}", fill(phrasing, values))
}
