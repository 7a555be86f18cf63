//! No text makes the loader panic, hang or fill the memory.

use std::fs;

use proptest::prelude::*;

use super::*;

/// What configuration files are made of, and what breaks parsers.
const WORDS: &[&str] = &[
    "bindPort",
    "auth",
    "token",
    "log",
    "proxies",
    "visitors",
    "stcp",
    "serverName",
    "bindPort",
    "allowUsers",
    "type",
    "name",
    "tcp",
    "udp",
    "localPort",
    "transport",
    "tls",
    "includes",
    "start",
    "allowPorts",
    "metadatas",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "{{",
    "}}",
    "{{-",
    "-}}",
    "range",
    "end",
    "$v",
    ":=",
    "parseNumberRange",
    "parseNumberRangePair",
    "\"1-3\"",
    ".Envs.A",
    ".First",
    "=",
    ":",
    ",",
    ".",
    "-",
    "- ",
    "*a",
    "&a ",
    "<<",
    "|",
    ">",
    "!",
    "%",
    "@",
    "`",
    "'",
    "\"",
    "\"\"\"",
    "\\",
    "\\u",
    "#",
    "---",
    "...",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\t",
    "  ",
    "0",
    "1",
    "-1",
    "7000",
    "99999999999999999999999999999999999999999",
    "0x",
    "0xff",
    "1e9",
    "nan",
    "true",
    "null",
    "~",
    "é",
    "\u{feff}",
    "\u{2028}",
    "1979-05-27T07:32:00Z",
];

fn load_all(text: &str) {
    for strict in [true, false] {
        let loader = Loader { strict, ..loader() };
        for problems in [
            loader.server_from_str(text).map_err(|e| e.to_string()).err(),
            loader.client_from_str(text).map_err(|e| e.to_string()).err(),
        ] {
            assert_ne!(problems.as_deref(), Some(""), "a refusal says why");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_words_in_any_order_are_read_or_refused(words in prop::collection::vec(prop::sample::select(WORDS), 0..60)) {
        load_all(&words.concat());
        load_all(&words.join(" "));
    }

    #[test]
    fn any_damage_to_a_sound_file_is_read_or_refused(
        which in 0..4usize, at in any::<prop::sample::Index>(), cut in 0..40usize, word in prop::sample::select(WORDS),
    ) {
        let files = ["tuns.full.toml", "tunc.full.toml", "tunc.yaml", "tunc.json"];
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(files[which]);
        let text = fs::read_to_string(path).unwrap();
        let chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let damaged: String =
            chars[..at].iter().copied().chain(word.chars()).chain(chars.iter().copied().skip(at + cut)).collect();
        load_all(&damaged);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        loader().server(file.path()).ok();
        loader().client(file.path()).ok();
        load_all(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn deep_nesting_is_refused_in_every_format() {
    for text in [
        format!("a = {}", "[".repeat(50_000)),
        format!("a = {}1{}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("{}a = 1", "a.".repeat(50_000)),
        format!("[{}a]", "a.".repeat(50_000)),
        "{\"a\":".repeat(50_000),
        format!("{}1{}", "{\"a\":".repeat(50_000), "}".repeat(50_000)),
        format!("{{\"a\": {}{}}}", "[".repeat(300), "]".repeat(300)),
        "- ".repeat(50_000),
        format!("a: {}", "[".repeat(50_000)),
        (0..2_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
    ] {
        assert!(loader().server_from_str(&text).is_err());
    }
}
