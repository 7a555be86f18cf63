//! The vocabulary of the table of keys: what a key takes, and how far this version honours it.

use std::collections::BTreeMap;

use super::tree::{Node, Value};

/// One key of a section.
pub(super) struct Key {
    /// As the documentation spells it; files may use any case.
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) status: Status,
}

/// How far a key is honoured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    /// Read and obeyed.
    Used,
    /// Checked and then left alone, because what it asks for is always so.
    Covered,
    /// Known from frp, not built: refused by name unless its value is zero.
    Later,
}

/// What a key takes.
pub(super) enum Takes {
    Bool,
    /// A whole number within both bounds.
    Int(i64, i64),
    Text,
    /// One of the first; the second are known from frp but not built.
    OneOf(&'static [&'static str], &'static [&'static str]),
    /// A list of texts; when names are given, of these only.
    Texts(&'static [&'static str]),
    /// Any names with texts.
    TextMap,
    Section(&'static [Key]),
    /// A list of sections of the same shape.
    Sections(&'static [Key]),
    /// A list of sections whose shape hangs on their `type`: the keys of all, and those of each.
    Typed(&'static [Key], &'static [Type]),
    /// Not looked into: only for keys that are refused anyway.
    Anything,
}

/// One value of `type` in a typed list.
pub(super) struct Type {
    pub(super) name: &'static str,
    pub(super) keys: &'static [Key],
    pub(super) status: Status,
}

pub(super) const fn used(name: &'static str, takes: Takes) -> Key {
    Key { name, takes, status: Status::Used }
}

pub(super) const fn covered(name: &'static str, takes: Takes) -> Key {
    Key { name, takes, status: Status::Covered }
}

pub(super) const fn later(name: &'static str, takes: Takes) -> Key {
    Key { name, takes, status: Status::Later }
}

/// A port; 0 has a meaning of its own at each key.
pub(super) const PORT: Takes = Takes::Int(0, 65_535);
/// Seconds, up to a year; negative turns off or restores the default, as the key's documentation says.
pub(super) const SECONDS: Takes = Takes::Int(-1, 31_536_000);

/// Finds a key by name without regard to case.
pub(super) fn find(keys: Keys, name: &str) -> Option<&'static Key> {
    keys.into_iter().flatten().find(|key| key.name.eq_ignore_ascii_case(name))
}

impl Takes {
    /// The keys below a key, if any.
    pub(super) fn children(&self) -> &'static [Key] {
        match self {
            Self::Section(keys) | Self::Sections(keys) | Self::Typed(keys, _) => keys,
            _ => &[],
        }
    }
}

// === reading a checked section ===

/// A section that passed the check: its keys are spelled as in the table and their values have the right type,
/// so reading needs no errors. What failed the check is absent; the report already knows it.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    node: &'a Node,
    keys: Keys,
}

/// The keys of a section: those of all its kind and those of its type.
pub(super) type Keys = [&'static [Key]; 2];

impl<'a> Section<'a> {
    pub(super) fn new(node: &'a Node, keys: Keys) -> Self {
        Self { node, keys }
    }

    /// Follows a dotted path. `None` when absent or zero: frp treats zero values as absent.
    pub(super) fn get(&self, path: &str) -> Option<&'a Node> {
        self.given(path).filter(|node| !node.is_zero())
    }

    /// Like [`get`](Self::get), but a zero counts as given.
    pub(super) fn given(&self, path: &str) -> Option<&'a Node> {
        debug_assert!(self.knows(path), "`{path}` is not in the table of keys as used");
        path.split('.').try_fold(self.node, |node, name| node.get(name))
    }

    /// Guards against reading a key that the table does not offer, which no file could ever set.
    fn knows(&self, path: &str) -> bool {
        let mut keys = self.keys;
        path.split('.').all(|name| match find(keys, name) {
            Some(key) if key.status == Status::Used && key.name == name => {
                keys = [key.takes.children(), &[]];
                true
            }
            _ => false,
        })
    }

    pub(super) fn line(&self, path: &str) -> u32 {
        self.given(path).map_or(self.node.line, |node| node.line)
    }

    pub(super) fn bool(&self, path: &str) -> Option<bool> {
        match self.given(path)?.value {
            Value::Bool(yes) => Some(yes),
            _ => None,
        }
    }

    /// A number other than 0.
    pub(super) fn int(&self, path: &str) -> Option<i64> {
        self.given_int(path).filter(|number| *number != 0)
    }

    /// A number, 0 included.
    pub(super) fn given_int(&self, path: &str) -> Option<i64> {
        match self.given(path)?.value {
            Value::Int(number) => i64::try_from(number).ok(),
            _ => None,
        }
    }

    /// A text that is not empty.
    pub(super) fn text(&self, path: &str) -> Option<&'a str> {
        match &self.get(path)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn items(&self, path: &str) -> &'a [Node] {
        match self.given(path).map(|node| &node.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// The texts of a list, with their lines.
    pub(super) fn texts(&self, path: &str) -> Vec<(u32, &'a str)> {
        let text = |item: &'a Node| match &item.value {
            Value::Text(text) => Some((item.line, text.as_str())),
            _ => None,
        };
        self.items(path).iter().filter_map(text).collect()
    }

    pub(super) fn text_map(&self, path: &str) -> BTreeMap<String, String> {
        let entries = self.given(path).map(Node::entries).unwrap_or_default().iter();
        entries
            .filter_map(|(key, node)| match &node.value {
                Value::Text(text) => Some((key.clone(), text.clone())),
                _ => None,
            })
            .collect()
    }
}
