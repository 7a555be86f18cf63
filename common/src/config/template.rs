//! The part of Go's text/template that configuration files use: environment variables and ranges of numbers.
//!
//! ```text
//! {{ .Envs.NAME }}
//! {{- range $i, $v := parseNumberRangePair "6000-6005" "7000-7005" }}
//! ... {{ $i }} ... {{ $v.First }} ... {{ $v.Second }} ...
//! {{- end }}
//! {{- range $v := parseNumberRange "1-3,8" }} ... {{ $v }} ... {{- end }}
//! ```
//!
//! Everything else of that language is refused with its line. A rendered text remembers for each of its lines
//! where it comes from, so that later messages name the line that the author wrote.

mod parse;

use zeroize::Zeroizing;

use self::parse::{Expression, Item, Part, is_space};
use super::Env;

/// Line and sentence.
type Failure = (u32, String);

/// Nested ranges multiply; this stops them before the memory does.
const MAX_OUTPUT: usize = 16 << 20;
/// The same for ranges that write nothing.
const MAX_ROUNDS: usize = 1 << 20;

/// A rendered text that remembers where its lines come from.
pub(super) struct Rendered {
    /// May hold the token, hence wiped after use.
    pub(super) text: Zeroizing<String>,
    /// Line and name of each environment variable that is not set.
    pub(super) missing: Vec<(u32, String)>,
    lines: Vec<u32>,
}

impl Rendered {
    /// The author's line behind a line of the text.
    pub(super) fn source_line(&self, line: u32) -> u32 {
        self.lines.get(line.saturating_sub(1) as usize).or(self.lines.last()).copied().unwrap_or(line)
    }
}

/// Renders a text. A text without `{{` comes out as it went in.
pub(super) fn render(text: &str, env: &Env) -> Result<Rendered, Failure> {
    let parts = parse::parse(text)?;
    let mut output = Output {
        env,
        text: Zeroizing::default(),
        missing: Vec::new(),
        lines: Vec::new(),
        fresh: true,
        rounds: 0,
    };
    output.parts(&parts, &mut Vec::new())?;
    Ok(Rendered { text: output.text, missing: output.missing, lines: output.lines })
}

// === rendering ===

struct Output<'a> {
    env: &'a Env,
    text: Zeroizing<String>,
    missing: Vec<(u32, String)>,
    lines: Vec<u32>,
    /// Nothing but white space stands on the last line yet, so its origin may still be set.
    fresh: bool,
    rounds: usize,
}

const TOO_LARGE: &str = "the file becomes too large once its ranges are written out";

/// What the variables are bound to, innermost last; the dot has an empty name.
type Scope<'a> = Vec<(&'a str, Item)>;

impl<'a> Output<'a> {
    fn parts(&mut self, parts: &[Part<'a>], scope: &mut Scope<'a>) -> Result<(), Failure> {
        for part in parts {
            match part {
                Part::Text(line, text) => self.push(*line, text, true)?,
                Part::Show(line, expression) => self.show(*line, expression, scope)?,
                Part::Range(range) => {
                    for (index, item) in range.values.iter().enumerate() {
                        self.rounds += 1;
                        if self.rounds > MAX_ROUNDS {
                            return Err((range.line, TOO_LARGE.into()));
                        }
                        let depth = scope.len();
                        scope.push(("", *item));
                        scope.extend(range.index.map(|name| (name, Item::Number(index as i64))));
                        scope.extend(range.item.map(|name| (name, *item)));
                        self.parts(&range.body, scope)?;
                        scope.truncate(depth);
                    }
                }
            }
        }
        Ok(())
    }

    fn show(&mut self, line: u32, expression: &Expression<'a>, scope: &Scope<'a>) -> Result<(), Failure> {
        let (variable, field) = match expression {
            Expression::Literal(text) => return self.push(line, text, false),
            Expression::Env(name) => {
                let Some(value) = self.env.get(*name) else {
                    self.missing.push((line, (*name).to_owned()));
                    return Ok(());
                };
                return self.push(line, value, false);
            }
            Expression::Variable(variable, field) => (variable, field),
        };
        let bound = scope.iter().rev().find(|(name, _)| name == variable).map(|(_, item)| *item);
        let shown = match (bound, field) {
            (Some(Item::Number(number)), None) => number.to_string(),
            (Some(Item::Pair(first, _)), Some("First")) => first.to_string(),
            (Some(Item::Pair(_, second)), Some("Second")) => second.to_string(),
            (Some(Item::Pair(..)), None) => {
                return Err((line, "a pair cannot be shown as a whole; use .First or .Second".into()));
            }
            (Some(Item::Number(_)), Some(_)) => {
                return Err((line, "only the items of parseNumberRangePair have .First and .Second".into()));
            }
            (None, _) if variable.is_empty() => {
                return Err((line, "`.` means nothing outside of a `range`".into()));
            }
            (None, _) | (_, Some(_)) => {
                return Err((line, format!("the variable ${variable} is not defined")));
            }
        };
        self.push(line, &shown, false)
    }

    /// Appends a text that begins on `line`. A value stays on its line even if it holds line breaks.
    fn push(&mut self, mut line: u32, text: &str, counts: bool) -> Result<(), Failure> {
        if self.text.len() + text.len() > MAX_OUTPUT {
            return Err((line, TOO_LARGE.into()));
        }
        for piece in text.split_inclusive('\n') {
            if self.fresh {
                if self.text.is_empty() || self.text.ends_with('\n') {
                    self.lines.push(line);
                }
                if let Some(last) = self.lines.last_mut() {
                    *last = line;
                }
                self.fresh = piece.chars().all(is_space);
            }
            self.text.push_str(piece);
            if piece.ends_with('\n') {
                self.fresh = true;
                line += u32::from(counts);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::from([("PORT".to_owned(), "7000".to_owned()), ("TEXT".to_owned(), "a\nb".to_owned())])
    }

    fn rendered(text: &str) -> String {
        render(text, &env()).map(|r| r.text.to_string()).unwrap()
    }

    fn refused(text: &str) -> Failure {
        render(text, &env()).err().unwrap_or_else(|| panic!("{text:?} was rendered"))
    }

    #[test]
    fn a_text_without_actions_comes_out_unchanged() {
        for text in ["", "\n", "a = 1\r\n\tb = '}}'\n\n", "no newline at the end", "{ \"a\": { \"b\": 1 } }"]
        {
            assert_eq!(rendered(text), text);
        }
    }

    #[test]
    fn environment_variables_are_filled_in_and_missing_ones_are_noted() {
        assert_eq!(rendered("bindPort = {{ .Envs.PORT }}"), "bindPort = 7000");
        assert_eq!(rendered("{{.Envs.PORT}}{{/* a note */}}{{ \"{{x}}\" }}"), "7000{{x}}");
        let missing = render("\n\na = '{{ .Envs.NOPE }}'", &env()).unwrap();
        assert_eq!((&**missing.text, &missing.missing[..]), ("\n\na = ''", &[(3, "NOPE".to_owned())][..]));
    }

    #[test]
    fn ranges_are_written_out_as_go_does() {
        let text = "a\n{{- range $i, $v := parseNumberRangePair \"1-2,7\" \"11-13\" }}\n{{ $i }}: {{ $v.First }}-{{ $v.Second }}\n{{- end }}\nz";
        assert_eq!(rendered(text), "a\n0: 1-11\n1: 2-12\n2: 7-13\nz");
        assert_eq!(
            rendered("{{ range $v := parseNumberRange `3-5` }}<{{ $v }}{{ . }}>{{ end }}"),
            "<33><44><55>"
        );
        assert_eq!(
            rendered("{{range parseNumberRangePair \"1\" \"2\" -}} {{.First}}/{{.Second}} {{- end}}"),
            "1/2"
        );
        let nested = "{{ range $a := parseNumberRange \"1-2\" }}{{ range $b := parseNumberRange \"1-2\" }}{{ $a }}{{ $b }} {{ end }}{{ end }}";
        assert_eq!(rendered(nested), "11 12 21 22 ");
    }

    #[test]
    fn lines_of_the_result_lead_back_to_the_lines_of_the_author() {
        let text = "one\n{{- range $v := parseNumberRange \"1-2\" }}\n[[p]]\nx = {{ $v }}\n{{- end }}\nlast {{ .Envs.TEXT }}\nend";
        let rendered = render(text, &env()).unwrap();
        let origin = |wanted: &str| -> Vec<u32> {
            let found = rendered.text.lines().zip(1..).filter(|(line, _)| line.contains(wanted));
            found.map(|(_, line)| rendered.source_line(line)).collect()
        };
        assert_eq!(&**rendered.text, "one\n[[p]]\nx = 1\n[[p]]\nx = 2\nlast a\nb\nend");
        assert_eq!(origin("one"), [1]);
        assert_eq!(origin("[[p]]"), [3, 3]);
        assert_eq!(origin("x ="), [4, 4]);
        assert_eq!(origin("last"), [6]);
        assert_eq!(origin("b"), [6]);
        assert_eq!(origin("end"), [7]);
    }

    #[test]
    fn everything_else_is_refused_with_its_line() {
        for (text, line, part) in [
            ("a\n{{ if .X }}", 2, "if .X"),
            ("{{ .Envs.A | quote }}", 1, "does not know"),
            ("\n\n{{ .Envs.A", 3, "not closed"),
            ("{{ end }}", 1, "without a `range`"),
            ("x\n{{ range $v := parseNumberRange \"1\" }}", 2, "not closed"),
            ("{{ range $v := parseNumberRange \"3-1\" }}{{ end }}", 1, "3-1"),
            ("{{ range $v := parseNumberRange \"1-99999\" }}{{ end }}", 1, "more than 65536"),
            ("{{ range $v := parseNumberRange 1 }}{{ end }}", 1, "quoted"),
            ("{{ range $v := parseNumberRangePair \"1\" \"2-3\" }}{{ end }}", 1, "differ in length"),
            ("{{ range $v := something \"1\" }}{{ end }}", 1, "does not know"),
            ("{{ range v := parseNumberRange \"1\" }}{{ end }}", 1, "variables"),
            ("{{ $x }}", 1, "$x is not defined"),
            ("{{ . }}", 1, "outside"),
            ("{{ }}", 1, "does not know"),
            ("{{ range $v := parseNumberRange \"1\" }}{{ $v.First }}{{ end }}", 1, "parseNumberRangePair"),
            ("{{ range $v := parseNumberRangePair \"1\" \"2\" }}{{ $v }}{{ end }}", 1, ".First"),
        ] {
            let (at, why) = refused(text);
            assert!(at == line && why.contains(part), "{text:?}: line {at}: {why}");
        }
    }

    #[test]
    fn nested_ranges_cannot_fill_the_memory() {
        let open = "{{ range $v := parseNumberRange \"1-60000\" }}";
        let text = format!("{open}{open}{open}xxxxxxxxxxxxxxxx{{{{end}}}}{{{{end}}}}{{{{end}}}}");
        assert!(refused(&text).1.contains("too large"));
        let idle = format!("{}{}", open.repeat(3), "{{ end }}".repeat(3));
        assert!(refused(&idle).1.contains("too large"));
        assert!(refused(&open.replace("60000", "2").repeat(100_000)).1.contains("too deeply"));
    }
}
