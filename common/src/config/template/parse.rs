//! Takes a template apart: text, actions, ranges.

use super::Failure;

/// Enough for every port; more is a slip of the pen.
const MAX_NUMBERS: usize = 65_536;
/// No file needs ranges within ranges within ranges; recursion needs a bound.
const MAX_DEPTH: usize = 8;

/// Takes a whole template apart.
pub(super) fn parse(text: &str) -> Result<Vec<Part<'_>>, Failure> {
    block(&mut scan(text)?.into_iter(), None, 0)
}

// === scanning: text and actions ===

enum Piece<'a> {
    Text(u32, &'a str),
    Action(u32, &'a str),
}

fn scan(text: &str) -> Result<Vec<Piece<'_>>, Failure> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let mut trim = false;
    loop {
        let (before, action) = match rest.find("{{") {
            Some(at) => (&rest[..at], Some(&rest[at + 2..])),
            None => (rest, None),
        };
        let opens_trimmed =
            action.is_some_and(|a| a.strip_prefix('-').is_some_and(|a| a.starts_with(is_space)));
        let mut shown = before;
        let mut shown_line = line;
        if trim {
            shown = before.trim_start_matches(is_space);
            shown_line += newlines(&before[..before.len() - shown.len()]);
        }
        if opens_trimmed {
            shown = shown.trim_end_matches(is_space);
        }
        if !shown.is_empty() {
            pieces.push(Piece::Text(shown_line, shown));
        }
        line += newlines(before);
        let Some(action) = action else { return Ok(pieces) };
        let action = if opens_trimmed { &action[1..] } else { action };
        let end = close(action).ok_or_else(|| (line, "`{{` is not closed by `}}`".to_owned()))?;
        let mut body = &action[..end];
        trim = body.strip_suffix('-').is_some_and(|b| b.ends_with(is_space));
        if trim {
            body = &body[..body.len() - 1];
        }
        pieces.push(Piece::Action(line, body.trim_matches(is_space)));
        line += newlines(body);
        rest = &action[end + 2..];
    }
}

/// Where the closing braces are; braces within quotes do not count.
fn close(action: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in action.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted && action[at + 1..].starts_with('}') => return Some(at),
            _ => {}
        }
    }
    None
}

/// What Go takes for white space.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn newlines(text: &str) -> u32 {
    text.bytes().filter(|b| *b == b'\n').count() as u32
}

// === parsing: blocks and expressions ===

pub(super) enum Part<'a> {
    Text(u32, &'a str),
    Show(u32, Expression<'a>),
    Range(Range<'a>),
}

pub(super) enum Expression<'a> {
    Env(&'a str),
    Literal(String),
    /// A variable (`""` is the dot) and a field, if any.
    Variable(&'a str, Option<&'a str>),
}

pub(super) struct Range<'a> {
    pub(super) line: u32,
    pub(super) index: Option<&'a str>,
    pub(super) item: Option<&'a str>,
    pub(super) values: Vec<Item>,
    pub(super) body: Vec<Part<'a>>,
}

#[derive(Clone, Copy)]
pub(super) enum Item {
    Number(i64),
    Pair(i64, i64),
}

/// Parts up to the `end` that belongs to `opened`, or to the end of the text.
fn block<'a>(
    pieces: &mut impl Iterator<Item = Piece<'a>>,
    opened: Option<u32>,
    depth: usize,
) -> Result<Vec<Part<'a>>, Failure> {
    let mut parts = Vec::new();
    while let Some(piece) = pieces.next() {
        let (line, action) = match piece {
            Piece::Text(line, text) => {
                parts.push(Part::Text(line, text));
                continue;
            }
            Piece::Action(line, action) => (line, action),
        };
        let (word, rest) = action.split_once(is_space).unwrap_or((action, ""));
        match word {
            "end" if opened.is_some() && rest.is_empty() => return Ok(parts),
            "end" => return Err((line, "`{{ end }}` without a `range` before it".into())),
            "range" => {
                let (index, item, values) = range(rest).map_err(|why| (line, why))?;
                if depth >= MAX_DEPTH {
                    return Err((line, "`range` is nested too deeply".into()));
                }
                let body = block(pieces, Some(line), depth + 1)?;
                parts.push(Part::Range(Range { line, index, item, values, body }));
            }
            _ if action.starts_with("/*") && action.ends_with("*/") => {}
            _ => parts.push(Part::Show(line, expression(action).ok_or_else(|| (line, unknown(action)))?)),
        }
    }
    match opened {
        None => Ok(parts),
        Some(line) => Err((line, "`{{ range }}` is not closed by `{{ end }}`".into())),
    }
}

fn unknown(action: &str) -> String {
    let short: String = action.chars().take(40).collect();
    format!(
        "tun does not know the template action {short:?}; it knows .Envs.NAME, range with parseNumberRange or \
         parseNumberRangePair, $variables and end"
    )
}

fn expression(action: &str) -> Option<Expression<'_>> {
    if let Some(name) = action.strip_prefix(".Envs.") {
        return is_name(name).then_some(Expression::Env(name));
    }
    if let Some((text, "")) = quoted(action) {
        return Some(Expression::Literal(text));
    }
    let (variable, field) = match action.strip_prefix('$') {
        Some(rest) => rest.split_once('.').map_or((rest, None), |(name, field)| (name, Some(field))),
        None => ("", action.strip_prefix('.').map(Some)?.filter(|field| !field.is_empty())),
    };
    let sound =
        (variable.is_empty() || is_name(variable)) && matches!(field, None | Some("First" | "Second"));
    (sound && (action.starts_with('.') || !variable.is_empty()))
        .then_some(Expression::Variable(variable, field))
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

type RangeHead<'a> = (Option<&'a str>, Option<&'a str>, Vec<Item>);

/// `$i, $v := parseNumberRange "1-3"`; the variables may be left out.
fn range(head: &str) -> Result<RangeHead<'_>, String> {
    let variable = |text: &str| text.trim().strip_prefix('$').filter(|name| is_name(name)).is_some();
    let (names, call) = match head.split_once(":=") {
        Some((names, call)) => (names.split(',').collect(), call.trim()),
        None => (Vec::new(), head.trim()),
    };
    if names.len() > 2 || !names.iter().all(|name| variable(name)) {
        return Err(format!(
            "`range` takes one or two variables, such as `$i, $v :=`, not {:?}",
            head.trim()
        ));
    }
    let names: Vec<&str> = names.into_iter().map(|name| name.trim().trim_start_matches('$')).collect();
    let (index, item) = match names[..] {
        [index, item] => (Some(index), Some(item)),
        [item] => (None, Some(item)),
        _ => (None, None),
    };
    let (function, arguments) = call.split_once(is_space).unwrap_or((call, ""));
    let arguments =
        texts(arguments).ok_or_else(|| format!("`{function}` takes quoted texts such as \"1-3,8\""))?;
    let values = match (function, &arguments[..]) {
        ("parseNumberRange", [one]) => numbers(one)?.into_iter().map(Item::Number).collect(),
        ("parseNumberRangePair", [first, second]) => {
            let [first, second] = [numbers(first)?, numbers(second)?];
            if first.len() != second.len() {
                return Err(format!(
                    "the two ranges of parseNumberRangePair differ in length ({} and {})",
                    first.len(),
                    second.len()
                ));
            }
            first.into_iter().zip(second).map(|(a, b)| Item::Pair(a, b)).collect()
        }
        ("parseNumberRange", _) => return Err("`parseNumberRange` takes one text".into()),
        ("parseNumberRangePair", _) => return Err("`parseNumberRangePair` takes two texts".into()),
        _ => return Err(unknown(&format!("range {}", head.trim()))),
    };
    Ok((index, item, values))
}

/// A list of quoted texts and nothing else.
fn texts(mut rest: &str) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    loop {
        rest = rest.trim_matches(is_space);
        if rest.is_empty() {
            return Some(texts);
        }
        let (text, tail) = quoted(rest)?;
        texts.push(text);
        rest = tail;
    }
}

/// A text in double quotes or backquotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        return raw.split_once('`').map(|(text, rest)| (text.to_owned(), rest));
    }
    let mut content = String::new();
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some((content, chars.as_str())),
            '\\' => match chars.next()? {
                c @ ('"' | '\\') => content.push(c),
                'n' => content.push('\n'),
                't' => content.push('\t'),
                _ => return None,
            },
            c => content.push(c),
        }
    }
}

/// `"1-3,8"` as numbers.
fn numbers(text: &str) -> Result<Vec<i64>, String> {
    let fail = || format!("{text:?} is not a range of numbers such as \"1-3,8\"");
    let number = |text: &str| text.trim().parse::<u32>().map(i64::from).map_err(|_| fail());
    let mut all = Vec::new();
    for part in text.split(',') {
        let (low, high) = match part.split_once('-') {
            Some((low, high)) => (number(low)?, number(high)?),
            None => (number(part)?, number(part)?),
        };
        if low > high {
            return Err(fail());
        }
        if (high - low) as usize + all.len() >= MAX_NUMBERS {
            return Err(format!("{text:?} holds more than {MAX_NUMBERS} numbers"));
        }
        all.extend(low..=high);
    }
    Ok(all)
}
