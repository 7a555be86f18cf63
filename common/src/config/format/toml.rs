//! TOML, read by the `toml` crate with byte spans.

use toml::de::{DeTable, DeValue};

use super::{
    super::tree::{Lines, Node, Value},
    SyntaxErrors,
};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxErrors> {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Node::new(1, Value::Map(entries(table.into_inner(), &lines))));
    }
    let mut found: SyntaxErrors = Vec::new();
    for error in errors {
        let line = lines.of(error.span().map_or(0, |span| span.start));
        // After the first error of a line the parser guesses; what it then says rarely helps.
        if found.iter().all(|(seen, _)| *seen != line) {
            found.push((line, format!("this is not valid TOML: {}", error.message())));
        }
    }
    Err(found)
}

fn entries(table: DeTable<'_>, lines: &Lines) -> Vec<(String, Node)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    // The crate sorts by name; messages follow the file.
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
        .into_iter()
        .map(|(key, value)| {
            let line = lines.of(key.span().start);
            (key.into_inner().into_owned(), Node::new(line, convert(value.into_inner(), lines)))
        })
        .collect()
}

fn convert(value: DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Int(number),
            Err(_) => Value::Int(if number.as_str().starts_with('-') { i128::MIN } else { i128::MAX }),
        },
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(yes) => Value::Bool(yes),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| Node::new(lines.of(item.span().start), convert(item.into_inner(), lines)))
                .collect(),
        ),
        DeValue::Table(table) => Value::Map(entries(table, lines)),
    }
}
