//! From file to tree: read, decode, render the template, parse. Everything that can be wrong with a file before
//! its keys are looked at is reported here.

use std::{fs::File, io::Read, path::Path};

use zeroize::Zeroizing;

use super::{Env, format, problem::Report, template, tree::Node};

/// More than any configuration needs; keeps `-c /dev/zero` from filling the memory.
const MAX_FILE_SIZE: u64 = 16 << 20;

pub(super) fn read(path: &Path, env: &Env, report: &mut Report) -> Option<Node> {
    match text(path) {
        Ok(text) => parse(&text, env, report),
        Err(why) => {
            report.problem(None, why);
            None
        }
    }
}

pub(super) fn parse(text: &str, env: &Env, report: &mut Report) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rendered = match template::render(text, env) {
        Ok(rendered) => rendered,
        Err((line, why)) => {
            report.problem(line, why);
            return None;
        }
    };
    for (line, name) in &rendered.missing {
        report.warning(
            *line,
            format!("the environment variable {name} is not set; an empty text takes its place"),
        );
    }
    match format::parse(&rendered.text, report.file()) {
        Ok(mut tree) => {
            tree.map_lines(&|line| rendered.source_line(line));
            Some(tree)
        }
        Err(errors) => {
            for (line, why) in errors {
                report.problem(rendered.source_line(line), why);
            }
            None
        }
    }
}

/// The text is wiped after use, because it may hold the token.
fn text(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = File::open(path).map_err(|e| format!("cannot open the file: {e}"))?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err("this is a directory, not a file".to_owned());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot read the file: {e}"))?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(format!("the file is larger than {} MiB", MAX_FILE_SIZE >> 20));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.contains('\0') => Err("the file is not a text".to_owned()),
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Err(format!("the file is not UTF-8 text (line {line})"))
        }
    }
}
