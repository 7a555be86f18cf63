//! "Did you mean": what the writer of an unknown key may have had in mind.

use super::{
    keys::{CLIENT, INCLUDED, SERVER},
    schema::{Key, Keys, Status, Takes, find},
    tree::join,
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

/// Longer than any key; comparing more would take its time.
const MAX_NAME: usize = 80;

/// The sentence about an unknown key.
pub(super) fn suggest(place: &Place<'_>, name: &str) -> String {
    let short: String = name.chars().take(MAX_NAME).collect();
    let path = join(place.path, &short.escape_debug().to_string());
    let hint = hint(place, &short).unwrap_or_default();
    format!("`{path}` is not a known key{hint}")
}

fn hint(place: &Place<'_>, name: &str) -> Option<String> {
    let written = plain(name);
    // The same name elsewhere is a better guess than a similar name here.
    let mut all = Vec::new();
    collect(place.root, "", &mut all);
    if name.contains('.') && all.iter().any(|(path, _)| plain(path) == written) {
        return Some(" in this form; only TOML has dots in keys, so write nested sections".to_owned());
    }
    all.retain(|(_, key)| plain(key.name) == written);
    if all.iter().any(|(_, key)| key.status == Status::Used) {
        all.retain(|(_, key)| key.status == Status::Used);
    }
    if let [(only, _)] = &all[..] {
        let section = match place.path {
            "" => "",
            _ => " (in TOML a key belongs to the last [section] above it)",
        };
        return Some(format!("; did you mean `{only}`?{section}"));
    }
    if place.path.is_empty() {
        let here = |keys: &'static [Key]| std::ptr::eq(place.root, keys);
        let known = |keys: &'static [Key]| !here(keys) && find([keys, &[]], name).is_some();
        if here(INCLUDED) && known(CLIENT) {
            return Some("; an included file may hold only proxies and visitors".to_owned());
        }
        if let Some((program, _)) =
            [("tunc", CLIENT), ("tuns", SERVER)].into_iter().find(|(_, keys)| known(keys))
        {
            return Some(format!(" here; it belongs into the file of {program}"));
        }
    }
    let similar = place.keys.into_iter().flatten();
    let (distance, best) =
        similar.map(|key| (strsim::damerau_levenshtein(&written, &plain(key.name)), key.name)).min()?;
    let close = distance <= (best.len() / 3).clamp(1, 3);
    close.then(|| format!("; did you mean `{}`?", join(place.path, best)))
}

/// All paths of a table with their last names. Lists of sections have no fixed path and are left out.
fn collect(keys: &'static [Key], path: &str, all: &mut Vec<(String, &'static Key)>) {
    for key in keys {
        let path = join(path, key.name);
        if let Takes::Section(keys) = key.takes {
            collect(keys, &path, all);
        }
        all.push((path, key));
    }
}

/// For comparing: frp's old files and flags write `bind_port`.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}
