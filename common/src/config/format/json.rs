//! JSON, read by `jsonc-parser` because it keeps positions; its leniencies are switched off, except comments.

use jsonc_parser::{
    CollectOptions, ParseOptions,
    ast::{ObjectProp, Value as Ast},
    common::Ranged,
    parse_to_ast,
};

use super::{
    super::tree::{Lines, Node, Value},
    MAX_DEPTH, SyntaxErrors,
};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxErrors> {
    let options = ParseOptions {
        allow_comments: true,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let fail = |line: u32, why: &str| vec![(line, format!("this is not valid JSON: {why}"))];
    let lines = Lines::new(text);
    let ast = parse_to_ast(text, &CollectOptions::default(), &options)
        .map_err(|e| fail(lines.of(e.range().start), &e.kind().to_string()))?
        .value
        .ok_or_else(|| fail(1, "it is empty"))?;
    let line = lines.of(ast.range().start);
    match convert(ast, &lines, 0) {
        Some(value) => Ok(Node::new(line, value)),
        None => Err(fail(line, "it is nested too deeply")),
    }
}

/// `None` when nested too deeply.
fn convert(ast: Ast<'_>, lines: &Lines, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match ast {
        Ast::StringLit(text) => Value::Text(text.value.into_owned()),
        Ast::NumberLit(number) => match number.value.parse::<i128>() {
            Ok(number) => Value::Int(number),
            Err(_) => Value::Float(number.value.parse().unwrap_or(f64::NAN)),
        },
        Ast::BooleanLit(yes) => Value::Bool(yes.value),
        Ast::NullKeyword(_) => Value::Null,
        Ast::Array(array) => {
            let item = |item: Ast<'_>| {
                let line = lines.of(item.range().start);
                Some(Node::new(line, convert(item, lines, depth + 1)?))
            };
            Value::List(array.elements.into_iter().map(item).collect::<Option<_>>()?)
        }
        Ast::Object(object) => {
            let entry = |property: ObjectProp<'_>| {
                let line = lines.of(property.range.start);
                let node = Node::new(line, convert(property.value, lines, depth + 1)?);
                Some((property.name.into_string(), node))
            };
            Value::Map(object.properties.into_iter().map(entry).collect::<Option<_>>()?)
        }
    })
}
