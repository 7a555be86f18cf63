//! Files: missing, strange, included.

use std::fs;

use super::*;

fn server_file(bytes: &[u8]) -> Result<Loaded<ServerConfig>, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    loader().server(file.path())
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let message = loader().server(&missing).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{}: cannot open the file: ", missing.display())), "{message}");
    assert!(loader().client(directory.path()).unwrap_err().to_string().contains("a directory, not a file"));
}

#[test]
fn what_is_no_text_is_refused() {
    assert_eq!(only(problems(server_file(b"a = 1\n\xff\xfe"))).1, "the file is not UTF-8 text (line 2)");
    assert_eq!(only(problems(server_file(b"a = 1\n\0"))).1, "the file is not a text");
    let garbage: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(server_file(&garbage).is_err());
    assert!(server_file(&vec![b'#'; 17 << 20]).unwrap_err().to_string().contains("larger than"));
}

#[cfg(unix)]
#[test]
fn a_file_without_end_is_refused() {
    assert!(loader().server(Path::new("/dev/zero")).is_err());
}

#[test]
fn broken_syntax_is_reported_with_its_line() {
    for text in
        ["a = 1\nb = \"open", "a = 1\nb = ", "a = 1\n[b", "a: 1\nb: [", "{\"a\": 1,\n\"b\"}", "a: 1\n b: 2"]
    {
        let found = server_problems(text);
        assert!(found[0].0 >= 2 && found[0].1.contains("is not valid "), "{text:?}: {found:?}");
    }
}

#[test]
fn lines_are_those_of_the_author_also_behind_a_template() {
    let text = "{{- range $i, $v := parseNumberRangePair \"1-2\" \"3-4\" }}\n[[proxies]]\nname = 'p{{ $i }}'\ntype = 'tcp'\n\
                localPort = {{ $v.First }}\nremotPort = {{ $v.Second }}\n{{- end }}\n\nuserr = '{{ .Envs.TUN_TEST }}'";
    let lines: Vec<_> = client_problems(text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [6, 6, 9]);
}

#[test]
fn templates_fill_in_ranges_and_the_environment() {
    let text = "user = '{{ .Envs.TUN_TEST }}'\n{{- range $v := parseNumberRange \"1-3,5\" }}\n[[proxies]]\nname = 'p{{ $v }}'\n\
                type = 'tcp'\nlocalPort = {{ $v }}\n{{- end }}\n";
    let names: Vec<_> = client(text).proxies.into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["hello.p1", "hello.p2", "hello.p3", "hello.p5"]);
    let loaded = loader().client_from_str("\nuser = '{{ .Envs.TUN_MISSING }}'").unwrap();
    assert_eq!(loaded.config.user, "");
    let warning = &loaded.warnings[0];
    assert!(warning.line == Some(2) && warning.message.contains("TUN_MISSING is not set"), "{warning}");
}

#[test]
fn template_errors_are_reported_with_their_line() {
    assert!(
        matches!(only(client_problems("\n{{ if true }}")), (2, message) if message.contains("does not know"))
    );
    assert!(matches!(only(client_problems("\n\n{{ end }}")), (3, _)));
}

#[test]
fn the_token_file_is_read_without_the_white_space_around_it() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, "\n secret \n").unwrap();
    let text = format!("auth.tokenSource.type = 'file'\nauth.tokenSource.file.path = '{}'", token.display());
    assert_eq!(server(&text).auth_token.expose(), "secret");
    fs::write(&token, " \n").unwrap();
    assert!(matches!(only(server_problems(&text)), (2, message) if message.ends_with("is empty")));
}

// === includes ===

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = tree.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        tree
    }

    fn load(&self) -> Result<Loaded<ClientConfig>, ConfigError> {
        loader().client(&self.0.path().join("main"))
    }

    /// All problems, with the directory taken out.
    fn problems(&self) -> String {
        self.load().unwrap_err().to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

const WEB: &str = "[[proxies]]\nname = 'web'\ntype = 'tcp'\nlocalPort = 80\n";
const SSH: &str = "proxies:\n- name: ssh\n  type: tcp\n  localPort: 22\n";

#[test]
fn included_files_add_their_proxies_whatever_their_format() {
    let main = "user = 'u'\nincludes = ['d/*', 'e/web']\n";
    let tree = Tree::new(&[("main", main), ("d/ssh", SSH), ("d/deeper/x", "ignored"), ("e/web", WEB)]);
    let names: Vec<_> = tree.load().unwrap().config.proxies.into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["u.ssh", "u.web"]);
}

#[test]
fn the_start_list_covers_included_files() {
    let main = format!("start = ['ssh']\nincludes = ['ssh']\n{WEB}");
    let loaded = Tree::new(&[("main", &main), ("ssh", SSH)]).load().unwrap();
    assert_eq!(loaded.config.proxies.len(), 1);
    assert_eq!(loaded.config.proxies[0].name, "ssh");
}

#[test]
fn included_files_add_their_visitors() {
    let main = format!("user = 'u'\nstart = ['v', 'w']\nincludes = ['a', 'b']\n{VISITOR}");
    let other = VISITOR.replace("\"v\"", "\"w\"");
    let tree = Tree::new(&[("main", &main), ("a", &other), ("b", WEB)]);
    let names: Vec<_> = tree.load().unwrap().config.visitors.into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["u.v", "u.w"]);
    let tree = Tree::new(&[("main", &main), ("a", VISITOR), ("b", WEB)]);
    let problems = tree.problems();
    assert!(problems.contains("a:3: two visitors are named \"v\"; the first is at main:6"), "{problems}");
}

#[test]
fn an_included_file_may_hold_nothing_but_proxies() {
    let main = "includes = ['a']";
    let tree = Tree::new(&[("main", main), ("a", "\nincludes = ['b']\nserverAddr = 'x'\n"), ("b", WEB)]);
    let problems = tree.problems();
    let lines: Vec<_> = problems.lines().collect();
    assert_eq!(lines.len(), 2, "{problems}");
    assert!(
        lines[0].starts_with("a:2: `includes`") && lines[1].starts_with("a:3: `serverAddr`"),
        "{problems}"
    );
    assert!(lines.iter().all(|line| line.contains("an included file may hold only proxies")), "{problems}");
}

#[test]
fn problems_of_all_files_are_reported_at_once() {
    let main = format!("includes = ['a', 'b']\nnope = 1\n{WEB}");
    let tree = Tree::new(&[("main", &main), ("a", WEB), ("b", "[[proxies]\n")]);
    let problems = tree.problems();
    assert!(problems.contains("main:2: `nope`"), "{problems}");
    assert!(problems.contains("a:2: two proxies are named \"web\"; the first is at main:4"), "{problems}");
    assert!(problems.contains("b:1: this is not valid TOML"), "{problems}");
}

#[test]
fn patterns_without_match_are_a_warning_and_files_without_match_an_error() {
    let loaded = Tree::new(&[("main", "includes = ['d/*.toml']")]).load().unwrap();
    assert!(loaded.warnings.iter().any(|w| w.message.contains("no file matches")), "{:?}", loaded.warnings);
    assert!(
        Tree::new(&[("main", "\nincludes = ['a']")])
            .problems()
            .starts_with("main:2: `includes`: there is no file")
    );
    assert!(Tree::new(&[("main", "includes = ['a[']")]).problems().contains("not a valid pattern"));
}

#[test]
fn a_file_cannot_include_itself() {
    assert!(Tree::new(&[("main", "includes = ['ma*']")]).problems().contains("matches this very file"));
}

#[test]
fn a_server_has_no_includes() {
    assert!(only(server_problems("includes = ['x']")).1.contains("belongs into the file of tunc"));
}
