//! What is wrong with a configuration, said so that the reader can put it right: file, line, key, what is
//! allowed. A file is checked to its end, so that one run shows everything.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    schema::Section,
    tree::{Value, join},
};

/// One thing to put right (or, as a warning, to know about).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file; `None` for the command line or the environment.
    pub file: Option<PathBuf>,
    /// The line in the file as its author wrote it, counted from 1.
    pub line: Option<u32>,
    /// One sentence.
    pub message: String,
}

impl Problem {
    /// A problem that belongs to no file.
    pub fn general(message: impl Into<String>) -> Self {
        Self { file: None, line: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{}:{line}: {}", file.display(), self.message),
            (Some(file), None) => write!(f, "{}: {}", file.display(), self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}

/// Why a configuration cannot be used: at least one problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// All problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// A configuration that can be used, and what its author should still hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// To be logged once the log is up, or printed by `verify`.
    pub warnings: Vec<Problem>,
}

/// More than anyone reads. One slip in a range of ports repeats itself for each of them.
const MAX_PROBLEMS: usize = 100;

/// Collects the problems of one file while it is read.
#[derive(Debug)]
pub(super) struct Report {
    file: Option<PathBuf>,
    strict: bool,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Report {
    pub(super) fn new(file: Option<&Path>, strict: bool) -> Self {
        Self { file: file.map(Path::to_owned), strict, problems: Vec::new(), warnings: Vec::new() }
    }

    /// A report for another file that follows the same rules.
    pub(super) fn for_file(&self, file: &Path) -> Self {
        Self::new(Some(file), self.strict)
    }

    pub(super) fn problem(&mut self, line: impl Into<Option<u32>>, message: impl Into<String>) {
        let problem = Problem { file: self.file.clone(), line: line.into(), message: message.into() };
        self.problems.push(problem);
    }

    pub(super) fn warning(&mut self, line: impl Into<Option<u32>>, message: impl Into<String>) {
        let warning = Problem { file: self.file.clone(), line: line.into(), message: message.into() };
        self.warnings.push(warning);
    }

    /// An unknown key: fatal, unless the user asked for tolerance.
    pub(super) fn unknown(&mut self, line: u32, message: impl Into<String>) {
        if self.strict { self.problem(line, message) } else { self.warning(line, message) }
    }

    /// A key that must be there; silent when it is there with a value that the check has refused.
    pub(super) fn missing(&mut self, section: Section<'_>, key: &str, path: &str, what: &str) {
        if section.given(key).is_none_or(|node| node.value != Value::Null) {
            self.problem(section.line(key), format!("`{}` is missing{what}", join(path, key)));
        }
    }

    /// Takes over what another file's report collected.
    pub(super) fn absorb(&mut self, other: Self) {
        self.problems.extend(other.problems);
        self.warnings.extend(other.warnings);
    }

    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The outcome: the value if nothing stands against it.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<Loaded<T>, ConfigError> {
        let Self { mut problems, warnings, .. } = self;
        match value {
            Some(config) if problems.is_empty() => Ok(Loaded { config, warnings }),
            _ => {
                // Stable: problems of one line stay in the order they were found, files in the order read.
                let mut order: Vec<Option<PathBuf>> = Vec::new();
                for problem in &problems {
                    if !order.contains(&problem.file) {
                        order.push(problem.file.clone());
                    }
                }
                problems.sort_by_key(|p| (order.iter().position(|f| *f == p.file), p.line));
                let more = problems.len().saturating_sub(MAX_PROBLEMS);
                if more > 0 {
                    problems.truncate(MAX_PROBLEMS);
                    problems.push(Problem::general(format!("and {more} more problems")));
                }
                Err(ConfigError { problems })
            }
        }
    }
}
