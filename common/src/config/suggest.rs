//! "Did you mean": what the writer of an unknown key may have had in mind.

use super::{
    check::join,
    schema::{Key, Keys, Takes},
};

/// Where an unknown key stood.
pub(super) struct Place<'a> {
    /// The table of the whole file.
    pub(super) root: &'static [Key],
    /// The keys that are known at this place.
    pub(super) keys: Keys,
    /// The section's path; empty at the top.
    pub(super) path: &'a str,
}

/// The sentence about an unknown key.
pub(super) fn suggest(place: &Place<'_>, name: &str) -> String {
    let path = join(place.path, name);
    let written = plain(name);
    // The same name elsewhere is a better guess than a similar name here.
    let mut all = Vec::new();
    collect(place.root, "", &mut all);
    let same: Vec<_> = all.iter().filter(|(_, leaf)| plain(leaf) == written).map(|(path, _)| path).collect();
    if let [only] = same[..] {
        let section =
            if place.path.is_empty() { "" } else { "; in TOML a key belongs to the last [section] above it" };
        return format!("`{path}` is not a known key; did you mean `{only}`?{section}");
    }
    let similar = place.keys.into_iter().flatten();
    let best = similar.map(|key| (strsim::damerau_levenshtein(&written, &plain(key.name)), key.name)).min();
    match best {
        Some((distance, best)) if distance <= (best.len() / 3).clamp(1, 3) => {
            format!("`{path}` is not a known key; did you mean `{}`?", join(place.path, best))
        }
        _ => format!("`{path}` is not a known key"),
    }
}

/// All paths of a table with their last names. Lists of sections have no fixed path and are left out.
fn collect(keys: &'static [Key], path: &str, all: &mut Vec<(String, &'static str)>) {
    for key in keys {
        let path = join(path, key.name);
        if let Takes::Section(keys) = key.takes {
            collect(keys, &path, all);
        }
        all.push((path, key.name));
    }
}

/// For comparing: frp's old files and flags write `bind_port`.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}
