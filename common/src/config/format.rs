//! From text to tree: which of TOML, JSON and YAML a file is written in is told by its content, because in
//! many set-ups configuration files have no extension.

mod json;
mod toml;
mod yaml;

use std::path::Path;

use super::tree::Node;

/// Why a text cannot be read: line and sentence.
pub(super) type SyntaxErrors = Vec<(u32, String)>;

/// Deeper nesting than any configuration has, but shallow enough to walk recursively.
const MAX_DEPTH: usize = 64;

/// Reads a text. `path` only settles which error is shown when the text fits no format.
pub(super) fn parse(text: &str, path: Option<&Path>) -> Result<Node, SyntaxErrors> {
    let first = first_line(text);
    if let Some((_, '{')) = first.map(|(n, line)| (n, line.chars().next().unwrap_or(' '))) {
        return json::parse(text);
    }
    if let Some(line) = legacy_ini(text) {
        let message =
            "this is frp's old INI format, which tun does not read; write the file as TOML, YAML or JSON";
        return Err(vec![(line, message.to_owned())]);
    }
    let toml = match toml::parse(text) {
        Ok(tree) => return Ok(tree),
        Err(errors) => errors,
    };
    let extension = path.and_then(Path::extension).and_then(|e| e.to_str()).unwrap_or_default();
    let looks_like_toml = first.is_some_and(|(_, line)| opens_toml(line));
    if looks_like_toml || extension.eq_ignore_ascii_case("toml") { Err(toml) } else { yaml::parse(text) }
}

/// The first line that is neither blank nor a comment, trimmed, with its number.
fn first_line(text: &str) -> Option<(usize, &str)> {
    let lines = text.lines().map(str::trim).enumerate();
    lines.map(|(i, line)| (i + 1, line)).find(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// `key =`, `[section]` or `[[list]]`: what no YAML configuration begins with.
fn opens_toml(line: &str) -> bool {
    let is_key = |key: &str| {
        let key = key.trim();
        !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-.\"' \t".contains(c))
    };
    line.starts_with('[') || line.split_once('=').is_some_and(|(key, _)| is_key(key))
}

fn legacy_ini(text: &str) -> Option<u32> {
    text.lines().zip(1..).find(|(line, _)| line.trim() == "[common]").map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Value;
    use super::*;

    fn port(text: &str) -> (Value, u32) {
        let tree = parse(text, None).unwrap();
        let node = tree.get("a").unwrap().get("port").unwrap();
        (node.value.clone(), node.line)
    }

    #[test]
    fn the_format_is_told_by_the_content_and_lines_are_kept() {
        assert_eq!(port("# x\n\n\ta.port = 1"), (Value::Int(1), 3));
        assert_eq!(port("[a]\r\n\r\n\tport = 1\r\n"), (Value::Int(1), 3));
        assert_eq!(port("{\n\t\"a\": {\n\t\t\"port\": 1\n\t}\n}\n"), (Value::Int(1), 3));
        assert_eq!(port("# x\na:\n  port: 1\n"), (Value::Int(1), 3));
        assert_eq!(port("---\r\na:\r\n  port: 1\r\n"), (Value::Int(1), 3));
    }

    #[test]
    fn a_broken_file_is_explained_in_the_format_it_resembles() {
        let why = |text: &str, path: &str| parse(text, Some(Path::new(path))).unwrap_err()[0].clone();
        assert_eq!(why("bindPort = 1\nx = \"open", "f").0, 2);
        assert!(why("bindPort = 1\nx = \"open", "f").1.contains("TOML"));
        assert!(why("{ \"a\": 1,, }", "f").1.contains("JSON"));
        assert!(why("a: [1,\nb: 2", "f").1.contains("YAML"));
        assert!(why("a: 1", "f.toml").1.contains("TOML"));
        assert!(why("[common]\nserver_addr = x", "f").1.contains("old INI format"));
    }

    #[test]
    fn yaml_anchors_and_merge_keys_are_resolved() {
        let tree = parse(".base: &base\n  port: 7\n  host: h\na:\n  <<: *base\n  host: i\n", None).unwrap();
        let a = tree.get("a").unwrap();
        assert_eq!(a.get("port").unwrap().value, Value::Int(7));
        assert_eq!(a.get("host").unwrap().value, Value::Text("i".into()));
        assert_eq!(a.entries().len(), 2);
    }

    #[test]
    fn hostile_nesting_and_alias_bombs_are_refused() {
        for open in ["{\"a\":", "[", "a = [", "- "] {
            let text =
                if open == "a = [" { format!("a = {}", "[".repeat(100_000)) } else { open.repeat(100_000) };
            assert!(parse(&text, None).is_err(), "{open}");
        }
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            let item = format!("*a{},", i - 1).repeat(10);
            bomb += &format!("a{i}: &a{i} [{item}]\n");
        }
        assert!(parse(&bomb, None).unwrap_err()[0].1.contains("too large"));
    }
}
