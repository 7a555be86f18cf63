//! YAML, built from the events of `saphyr-parser`: that keeps lines, bounds what aliases may expand to, and
//! resolves anchors and merge keys on the way.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::{
    super::tree::{Node, Value},
    MAX_DEPTH, SyntaxErrors,
};

/// What aliases may add up to. A file that repeats itself more than this is an attack.
const MAX_NODES: usize = 100_000;

pub(super) fn parse(text: &str) -> Result<Node, SyntaxErrors> {
    Builder::default().run(text).map_err(|(line, why)| vec![(line, format!("this is not valid YAML: {why}"))])
}

type Failure = (u32, String);

/// A collection that is still open.
struct Open {
    anchor: usize,
    line: u32,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    /// The entries so far, and the key that waits for its value.
    Map(Vec<(String, Node)>, Option<(String, u32)>),
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    /// Nodes that aliases have added so far.
    nodes: usize,
}

impl Builder {
    fn run(mut self, text: &str) -> Result<Node, Failure> {
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|e| (e.marker().line() as u32, e.info().to_owned()))?;
            let line = span.start.line() as u32;
            match event {
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err((line, "it holds more than one document (`---`)".into()));
                    }
                }
                Event::Alias(id) => {
                    let Some(node) = self.anchors.get(&id).cloned() else {
                        return Err((line, "an alias refers to something that is not complete yet".into()));
                    };
                    self.nodes += weight(&node);
                    if self.nodes > MAX_NODES || depth(&node) + self.stack.len() > MAX_DEPTH {
                        return Err((line, "it is too large once its aliases are followed".into()));
                    }
                    self.add(Node::new(line, node.value), 0)?;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.add(Node::new(line, scalar(text, style, tag)), anchor)?;
                }
                Event::SequenceStart(anchor, _) => self.open(anchor, line, Kind::List(Vec::new()))?,
                Event::MappingStart(anchor, _) => self.open(anchor, line, Kind::Map(Vec::new(), None))?,
                Event::SequenceEnd | Event::MappingEnd => self.close()?,
            }
        }
        // Keys that begin with a dot hold anchors for use elsewhere and mean nothing by themselves.
        let mut root = self.root.unwrap_or(Node::new(1, Value::Null));
        if let Value::Map(entries) = &mut root.value {
            entries.retain(|(key, _)| !key.starts_with('.'));
        }
        Ok(root)
    }

    fn open(&mut self, anchor: usize, line: u32, kind: Kind) -> Result<(), Failure> {
        if self.stack.len() >= MAX_DEPTH {
            return Err((line, "it is nested too deeply".into()));
        }
        if let Some(Open { kind: Kind::Map(_, None), .. }) = self.stack.last() {
            return Err((line, "a key must be a plain text".into()));
        }
        self.stack.push(Open { anchor, line, kind });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Failure> {
        let Some(Open { anchor, line, kind }) = self.stack.pop() else { return Ok(()) };
        let value = match kind {
            Kind::List(items) => Value::List(items),
            Kind::Map(entries, _) => Value::Map(merge(entries)?),
        };
        self.add(Node::new(line, value), anchor)
    }

    /// Puts a finished node where it belongs: as a key, a value, an item or the root.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Failure> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(Kind::List(items)) => items.push(node),
            Some(Kind::Map(entries, pending)) => match pending.take() {
                // The line of a key is what a message should name, also when its value begins further down.
                Some((key, line)) => entries.push((key, Node::new(line, node.value))),
                None => *pending = Some((key_text(&node)?, node.line)),
            },
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Result<String, Failure> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        Value::Bool(yes) => Ok(yes.to_string()),
        Value::Null | Value::Float(_) | Value::List(_) | Value::Map(_) | Value::Other(_) => {
            Err((node.line, "a key must be a plain text".into()))
        }
    }
}

/// Applies `<<: *anchor`: what the mapping does not say itself comes from the anchor.
fn merge(entries: Vec<(String, Node)>) -> Result<Vec<(String, Node)>, Failure> {
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key == "<<");
    for (_, node) in merges {
        let sources = match node.value {
            Value::List(items) => items,
            value => vec![Node::new(node.line, value)],
        };
        for source in sources {
            let Value::Map(entries) = source.value else {
                return Err((source.line, "`<<` takes a mapping or a list of mappings".into()));
            };
            for (key, value) in entries {
                if own.iter().all(|(name, _)| *name != key) {
                    own.push((key, value));
                }
            }
        }
    }
    Ok(own)
}

fn weight(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| weight(node)).sum::<usize>(),
        _ => 1,
    }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| depth(node)).max().unwrap_or(0),
        _ => 0,
    }
}

/// The YAML 1.2 core schema. A `yes` or `on` stays a text; the check then says to write `true`.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<Cow<'_, Tag>>) -> Value {
    let forced_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if forced_text || style != ScalarStyle::Plain {
        return Value::Text(text.into_owned());
    }
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |digits: &str, radix| i128::from_str_radix(digits, radix).ok();
    let number = match text.get(..2) {
        Some("0x") => radix(&text[2..], 16),
        Some("0o") => radix(&text[2..], 8),
        _ => text.parse().ok(),
    };
    if let Some(number) = number {
        return Value::Int(number);
    }
    let looks_like_number = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && text.bytes().any(|b| b.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(number) if looks_like_number => Value::Float(number),
        _ => Value::Text(text.into_owned()),
    }
}
