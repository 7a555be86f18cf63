//! The one shape that all formats are read into: values that know the line they stand on.

/// A value and the line of its key (for list items: its own line), counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) value: Value,
}

/// What a value is. All formats know these and no more.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// Wide enough that "too large" is told as such and not as "not a number".
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In file order. Keys may repeat or differ in case only: the check refuses that, for all formats alike.
    Map(Vec<(String, Node)>),
    /// What no key of ours takes, such as TOML's dates; named for the message.
    Other(&'static str),
}

impl Node {
    pub(super) fn new(line: u32, value: Value) -> Self {
        Self { line, value }
    }

    pub(super) fn entries(&self) -> &[(String, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Looks a key up by its exact name.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Replaces every line number.
    pub(super) fn map_lines(&mut self, map: &impl Fn(u32) -> u32) {
        self.line = map(self.line);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.map_lines(map)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.map_lines(map)),
            _ => {}
        }
    }

    /// Whether nothing is said: frp treats zero values as absent.
    pub(super) fn is_zero(&self) -> bool {
        match &self.value {
            Value::Null | Value::Bool(false) | Value::Int(0) => true,
            Value::Bool(true) | Value::Int(_) | Value::Other(_) => false,
            Value::Float(f) => *f == 0.0,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.iter().all(|(_, node)| node.is_zero()),
        }
    }
}

impl Value {
    /// The word for error messages.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true/false",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a fraction",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
            Self::Other(name) => name,
        }
    }
}

/// Translates byte offsets into lines.
pub(super) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Self { starts: std::iter::once(0).chain(newlines.map(|(i, _)| i + 1)).collect() }
    }

    pub(super) fn of(&self, offset: usize) -> u32 {
        self.starts.partition_point(|start| *start <= offset).max(1) as u32
    }
}

/// The full name of a key below `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
