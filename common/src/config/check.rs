//! Holds a tree against the table of keys. What passes is renamed to the table's spelling; what does not is
//! reported and emptied, so that the decoders see only sound values and the check can go on to the end.

use std::collections::HashMap;

use super::{
    problem::Report,
    schema::{Key, Keys, Status, Takes, Type, find},
    suggest::{Place, suggest},
    tree::{Node, Value, join},
};

/// Checks a file's tree against the table of its kind. `start` is the client's list of proxies to run.
pub(super) fn check(tree: &mut Node, root: &'static [Key], start: &[String], report: &mut Report) {
    let mut check = Check { root, start, report, dormant: false };
    match &tree.value {
        Value::Map(_) => check.section(tree, "", [root, &[]]),
        Value::Null => tree.value = Value::Map(Vec::new()),
        other => {
            let message = format!("the file must hold keys and values, not {}", other.describe());
            check.report.problem(tree.line, message);
        }
    }
}

struct Check<'a> {
    root: &'static [Key],
    start: &'a [String],
    report: &'a mut Report,
    /// Inside something that will not run: what is not built yet does no harm there.
    dormant: bool,
}

impl Check<'_> {
    fn section(&mut self, node: &mut Node, path: &str, keys: Keys) {
        let Value::Map(entries) = &mut node.value else { return };
        let mut seen: HashMap<&'static str, u32> = HashMap::new();
        let mut kept = Vec::with_capacity(entries.len());
        for (name, mut value) in std::mem::take(entries) {
            let Some(key) = find(keys, &name) else {
                let place = Place { root: self.root, keys, path };
                self.report.unknown(value.line, suggest(&place, &name));
                continue;
            };
            let path = join(path, key.name);
            if let Some(first) = seen.get(key.name) {
                let message =
                    format!("`{path}` is given twice, first in line {first} (case does not matter)");
                self.report.problem(value.line, message);
                continue;
            }
            seen.insert(key.name, value.line);
            if matches!(value.value, Value::Null) {
                continue;
            }
            if !self.entry(&mut value, &path, key) {
                // Still there, so that nobody reports it as missing.
                value.value = Value::Null;
            }
            kept.push((key.name.to_owned(), value));
        }
        node.value = Value::Map(kept);
    }

    /// Whether the decoders may see the value.
    fn entry(&mut self, node: &mut Node, path: &str, key: &'static Key) -> bool {
        if key.status != Status::Later {
            return self.value(node, path, &key.takes);
        }
        if !node.is_zero() {
            self.not_built(node.line, format!("`{path}`"));
        }
        // Below a refused section only typing errors are worth a word of their own.
        let dormant = std::mem::replace(&mut self.dormant, true);
        match &key.takes {
            Takes::Section(keys) => self.section(node, path, [keys, &[]]),
            Takes::Sections(_) | Takes::Typed(..) if matches!(node.value, Value::List(_)) => {
                self.value(node, path, &key.takes);
            }
            _ => {}
        }
        self.dormant = dormant;
        false
    }

    fn value(&mut self, node: &mut Node, path: &str, takes: &'static Takes) -> bool {
        let line = node.line;
        match (takes, &mut node.value) {
            (Takes::Anything, _) | (Takes::Bool, Value::Bool(_)) | (Takes::Text, Value::Text(_)) => true,
            (Takes::Int(min, max), Value::Int(number)) => {
                let fits = (i128::from(*min)..=i128::from(*max)).contains(number);
                if !fits {
                    let number = match *number {
                        i128::MAX | i128::MIN => "something far beyond".to_owned(),
                        number => number.to_string(),
                    };
                    let message = format!("`{path}` must be {}, not {number}", expected(takes));
                    self.report.problem(line, message);
                }
                fits
            }
            (Takes::OneOf(..), Value::Text(text)) if text.is_empty() => true,
            (Takes::OneOf(now, _), Value::Text(text)) if now.contains(&text.as_str()) => true,
            (Takes::OneOf(_, later), Value::Text(text)) if later.contains(&text.as_str()) => {
                let why = match (path, text.as_str()) {
                    // frp's words, which scripts look for.
                    ("auth.tokenSource.type", "exec") => {
                        " (unsafe feature \"TokenSourceExec\" is not enabled)"
                    }
                    _ => "",
                };
                self.not_built(line, format!("`{path}` = {text:?}{why}"));
                false
            }
            (Takes::OneOf(..), Value::Text(text)) => {
                let message = format!("`{path}` must be {}, not {text:?}", expected(takes));
                self.report.problem(line, message);
                false
            }
            (Takes::Texts(of), Value::List(items)) => {
                items.retain(|item| self.list_item(item, path, of));
                true
            }
            (Takes::TextMap, Value::Map(entries)) => {
                entries.retain(|(name, value)| {
                    let is_text = matches!(value.value, Value::Text(_));
                    if !is_text {
                        self.wrong_type(value, &join(path, name), &Takes::Text);
                    }
                    is_text
                });
                true
            }
            (Takes::Section(keys), Value::Map(_)) => {
                self.section(node, path, [keys, &[]]);
                true
            }
            (Takes::Sections(keys), Value::List(items)) => {
                self.each(items, path, |check, item, path| check.section(item, path, [keys, &[]]));
                true
            }
            (Takes::Typed(keys, types), Value::List(items)) => {
                self.each(items, path, |check, item, path| check.typed(item, path, keys, types));
                true
            }
            _ => {
                self.wrong_type(node, path, takes);
                false
            }
        }
    }

    fn list_item(&mut self, item: &Node, path: &str, of: &[&str]) -> bool {
        match &item.value {
            Value::Text(text) if of.is_empty() || of.contains(&text.as_str()) => true,
            Value::Text(text) => {
                let message = format!("`{path}` may hold {}, not {text:?}", of.join(", "));
                self.report.problem(item.line, message);
                false
            }
            _ => {
                self.wrong_type(item, &format!("{path}[]"), &Takes::Text);
                false
            }
        }
    }

    /// Checks every section of a list; what is no section is reported and dropped.
    fn each(&mut self, items: &mut Vec<Node>, path: &str, mut one: impl FnMut(&mut Self, &mut Node, &str)) {
        let mut index = 0;
        items.retain_mut(|item| {
            let path = format!("{path}[{index}]");
            index += 1;
            let is_section = matches!(item.value, Value::Map(_));
            if is_section {
                one(self, item, &path);
            } else {
                self.wrong_type(item, &path, &Takes::Section(&[]));
            }
            is_section
        });
    }

    /// A section whose further keys hang on its `type`.
    fn typed(&mut self, node: &mut Node, path: &str, keys: &'static [Key], types: &'static [Type]) {
        let dormant = self.dormant;
        self.dormant |= !self.runs(node);
        let given = field(node, "type").cloned();
        let known = match given.as_ref().map(|node| (&node.value, node.line)) {
            Some((Value::Text(text), line)) => {
                let found = types.iter().find(|t| t.name == text);
                match found {
                    Some(found) if found.status == Status::Later => {
                        self.not_built(line, format!("`{path}.type` = {text:?}"));
                    }
                    Some(_) => {}
                    None => {
                        let names: Vec<_> = types.iter().map(|t| t.name).collect();
                        let message =
                            format!("`{path}.type` must be one of {}, not {text:?}", names.join(", "));
                        self.report.problem(line, message);
                    }
                }
                found
            }
            // Of the wrong type: the common check says so.
            Some(_) => None,
            None => {
                self.report.problem(node.line, format!("`{path}.type` is missing"));
                None
            }
        };
        match known {
            Some(found) => {
                // What belongs to another type is not a typing error, and saying so helps more.
                self.foreign_keys(node, path, [keys, found.keys], found.name, types);
                self.section(node, path, [keys, found.keys]);
            }
            // Which keys belong here is unknown; the common ones are still worth a look.
            None => {
                if let Value::Map(entries) = &mut node.value {
                    entries.retain(|(name, _)| find([keys, &[]], name).is_some());
                }
                self.section(node, path, [keys, &[]]);
            }
        }
        self.dormant = dormant;
    }

    fn foreign_keys(
        &mut self,
        node: &mut Node,
        path: &str,
        own: Keys,
        own_type: &str,
        types: &'static [Type],
    ) {
        let Value::Map(entries) = &mut node.value else { return };
        entries.retain(|(name, value)| {
            if find(own, name).is_some() {
                return true;
            }
            let owners: Vec<_> =
                types.iter().filter(|t| find([t.keys, &[]], name).is_some()).map(|t| t.name).collect();
            if !owners.is_empty() {
                let message =
                    format!("`{path}.{name}` belongs to the types {}, not to {own_type}", owners.join(", "));
                self.report.unknown(value.line, message);
            }
            owners.is_empty()
        });
    }

    /// Whether a proxy is enabled and, if there is a list of those to start, on it.
    fn runs(&self, node: &Node) -> bool {
        let enabled = !matches!(field(node, "enabled").map(|n| &n.value), Some(Value::Bool(false)));
        let listed = match field(node, "name").map(|n| &n.value) {
            Some(Value::Text(name)) => self.start.is_empty() || self.start.contains(name),
            _ => true,
        };
        enabled && listed
    }

    fn not_built(&mut self, line: u32, what: String) {
        if !self.dormant {
            self.report.problem(line, format!("{what} is not supported by this version of tun"));
        }
    }

    fn wrong_type(&mut self, node: &Node, path: &str, takes: &Takes) {
        let hint = match (takes, &node.value) {
            (Takes::Int(..), Value::Text(text)) if text.trim().parse::<i64>().is_ok() => {
                " (remove the quotes)"
            }
            (Takes::Bool, Value::Text(_)) => " (write true or false, without quotes)",
            (Takes::Text | Takes::OneOf(..), Value::Int(_) | Value::Bool(_) | Value::Float(_)) => {
                " (put it in quotes)"
            }
            (Takes::Texts(_), Value::Text(_)) => " (put it in square brackets)",
            (Takes::Sections(_) | Takes::Typed(..), Value::Map(_)) => {
                " (in TOML: double the square brackets)"
            }
            _ => "",
        };
        let message = format!("`{path}` must be {}, not {}{hint}", expected(takes), node.value.describe());
        self.report.problem(node.line, message);
    }
}

/// A field of a section that has not been checked yet.
pub(super) fn field<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.entries().iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, node)| node)
}

fn expected(takes: &Takes) -> String {
    match takes {
        Takes::Bool => "true or false".into(),
        Takes::Int(min, max) => format!("a whole number from {min} to {max}"),
        Takes::Text => "a text".into(),
        Takes::OneOf(now, _) if now.len() == 1 => format!("{:?}", now[0]),
        Takes::OneOf(now, _) => format!("one of {}", now.join(", ")),
        Takes::Texts(_) => "a list of texts".into(),
        Takes::TextMap => "a section of names and texts".into(),
        Takes::Section(_) => "a section".into(),
        Takes::Sections(_) | Takes::Typed(..) => "a list of sections".into(),
        Takes::Anything => "anything".into(),
    }
}
