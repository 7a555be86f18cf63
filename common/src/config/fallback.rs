//! Visitors that fall back to others: the others must be there, and no way may lead in a circle.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::problem::Report;

/// What one visitor says.
pub(super) struct Wish {
    /// The other visitor, as the file names it.
    pub(super) to: String,
    /// The full name of the key.
    pub(super) key: String,
    pub(super) line: u32,
}

/// What all visitors that run say, in the order of the files.
#[derive(Default)]
pub(super) struct Fallbacks {
    visitors: Vec<Visitor>,
}

struct Visitor {
    name: String,
    file: Option<PathBuf>,
    wish: Option<Wish>,
}

impl Fallbacks {
    pub(super) fn add(&mut self, name: &str, wish: Option<Wish>, report: &Report) {
        let file = report.file().map(Path::to_owned);
        self.visitors.push(Visitor { name: name.to_owned(), file, wish });
    }

    /// Reports what is wrong. `exists` knows the visitors that do not run as well.
    pub(super) fn check(&self, exists: impl Fn(&str) -> bool, report: &mut Report) {
        let next: HashMap<&str, Option<&str>> =
            self.visitors.iter().map(|v| (v.name.as_str(), v.wish.as_ref().map(|w| w.to.as_str()))).collect();
        for visitor in &self.visitors {
            let Some(wish) = &visitor.wish else { continue };
            let to = wish.to.as_str();
            let wrong = if to == visitor.name {
                "names the visitor itself".to_owned()
            } else if next.contains_key(to) {
                match circle(&visitor.name, &next) {
                    Some(names) => format!("leads in a circle: {}", names.join(" -> ")),
                    None => continue,
                }
            } else if exists(to) {
                format!("names {to:?}, which does not run (see its `enabled`, and `start`)")
            } else {
                format!("names {to:?}, but there is no such visitor")
            };
            let message = format!("`{}` {wrong}", wish.key);
            match &visitor.file {
                Some(file) => {
                    let mut inner = report.for_file(file);
                    inner.problem(wish.line, message);
                    report.absorb(inner);
                }
                None => report.problem(wish.line, message),
            }
        }
    }
}

/// The way that begins at `first`, if it leads back there.
fn circle<'a>(first: &'a str, next: &HashMap<&'a str, Option<&'a str>>) -> Option<Vec<&'a str>> {
    let mut way = vec![first];
    while let Some(Some(name)) = way.last().and_then(|name| next.get(name)) {
        way.push(name);
        if *name == first {
            return Some(way);
        }
        // A circle further along, which its own visitors report.
        if way.len() > next.len() {
            return None;
        }
    }
    None
}
