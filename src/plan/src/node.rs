//! A YAML value that remembers where it was written, through merging and interpolation.

use serde_json::Value;

/// Where something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pos {
    /// 0 is the job file, n the n-th `--set`.
    pub source: u16,
    /// Counts from 1.
    pub line: u32,
    /// Counts from 1, in characters.
    pub column: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub at: Pos,
    pub tree: Tree,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    /// Null, bool, number or text; never a list or a mapping.
    Scalar(Value),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    pub at: Pos,
    pub value: Node,
}

impl Node {
    pub fn empty_map(at: Pos) -> Self {
        Node { at, tree: Tree::Map(Vec::new()) }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.tree, Tree::Scalar(Value::Null))
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.tree {
            Tree::Scalar(Value::String(s)) => Some(s),
            _ => None,
        }
    }

    pub fn as_scalar(&self) -> Option<&Value> {
        match &self.tree {
            Tree::Scalar(v) => Some(v),
            _ => None,
        }
    }

    /// Entries of a mapping; nothing for everything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.tree {
            Tree::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Items of a list; nothing for everything else.
    pub fn items(&self) -> &[Node] {
        match &self.tree {
            Tree::Seq(items) => items,
            _ => &[],
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.value)
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }

    pub fn to_value(&self) -> Value {
        match &self.tree {
            Tree::Scalar(v) => v.clone(),
            Tree::Seq(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Tree::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_value())).collect())
            }
        }
    }

    /// What stands here, in a few words, for messages.
    pub fn describe(&self) -> String {
        match &self.tree {
            Tree::Scalar(Value::Null) => "nothing".into(),
            Tree::Scalar(Value::String(s)) => format!("the text `{}`", clip(s)),
            Tree::Scalar(Value::Number(n)) => format!("the number {n}"),
            Tree::Scalar(v) => format!("`{v}`"),
            Tree::Seq(_) => "a list".into(),
            Tree::Map(_) => "a mapping".into(),
        }
    }

    /// `self` with `over` on top: mappings are merged key by key, everything else is replaced. What stands under a role
    /// of `inputs:` or `services:` is one thing and is replaced whole: half of an old `{phase, at}` has no meaning.
    pub fn merged(&self, over: &Node, level: Level) -> Node {
        let (Tree::Map(base), Tree::Map(top)) = (&self.tree, &over.tree) else {
            return over.clone();
        };
        let mut entries = base.clone();
        for entry in top {
            let Some(old) = entries.iter_mut().find(|e| e.key == entry.key) else {
                entries.push(entry.clone());
                continue;
            };
            // an empty `params:` in an overlay says nothing; `lora: null` does
            if entry.value.is_null() && SECTIONS.contains(&entry.key.as_str()) {
                continue;
            }
            let value = match level.below(&entry.key) {
                Some(below) => old.value.merged(&entry.value, below),
                None => entry.value.clone(),
            };
            *old = Entry { key: entry.key.clone(), at: entry.at, value };
        }
        Node { at: over.at, tree: Tree::Map(entries) }
    }
}

/// Which part of a job file is being merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Job,
    Phases,
    Phase,
    Roles,
    Other,
}

impl Level {
    /// The level of what stands under `key`; `None` where values are replaced whole.
    fn below(self, key: &str) -> Option<Level> {
        match (self, key) {
            (Level::Job, "phases") => Some(Level::Phases),
            (Level::Phases, _) => Some(Level::Phase),
            (Level::Phase, "inputs" | "services") => Some(Level::Roles),
            (Level::Roles, _) => None,
            _ => Some(Level::Other),
        }
    }
}

/// Sections that may be left empty, which then says nothing rather than "remove everything".
const SECTIONS: [&str; 10] = [
    "matrix",
    "defaults",
    "kinds",
    "phases",
    "params",
    "inputs",
    "services",
    "resources",
    "retry",
    "profiles",
];

fn clip(s: &str) -> String {
    const MOST: usize = 40;
    if s.chars().count() <= MOST { s.to_owned() } else { s.chars().take(MOST).chain(['…']).collect() }
}
