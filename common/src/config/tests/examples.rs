//! The files in `conf/` work, and the full ones show every key with its default.

use std::{fs, path::PathBuf};

use super::{
    super::{
        keys,
        schema::{Key, Status, Takes},
        tree::join,
    },
    *,
};

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf")
}

fn example_loader() -> Loader {
    let mut loader = loader();
    loader.env.insert("TUN_SERVER".into(), "tun.example.com".into());
    loader.env.insert("TUN_TOKEN".into(), "token".into());
    loader
}

#[test]
fn every_example_loads_without_a_warning() {
    let mut seen = 0;
    for entry in fs::read_dir(conf()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let warnings = match name.starts_with("tuns") {
            true => example_loader().server(&path).map(|loaded| loaded.warnings),
            false => example_loader().client(&path).map(|loaded| loaded.warnings),
        };
        assert_eq!(warnings, Ok(Vec::new()), "{name}");
        seen += 1;
    }
    assert!(seen >= 10, "{seen} examples");
}

#[test]
fn the_full_files_show_the_defaults() {
    let token = Secret::new("change me");
    let server = example_loader().server(&conf().join("tuns.full.toml")).unwrap().config;
    let want = ServerConfig {
        auth_token: token.clone(),
        // An example: the default is an empty list, which shows nothing.
        allow_ports: vec![2000..=3000, 3001..=3001],
        ..ServerConfig::default()
    };
    assert_eq!(server, want);
    let path = conf().join("tunc.full.toml");
    let mut client = example_loader().client(&path).unwrap().config;
    assert_eq!((client.proxies.len(), client.visitors.len()), (5, 3));
    client.proxies.clear();
    client.visitors.clear();
    let want = ClientConfig {
        auth_token: token,
        metadatas: [("site".into(), "office".into())].into(),
        source: Some(path),
        ..ClientConfig::default()
    };
    assert_eq!(client, want);
}

#[test]
fn the_full_files_mention_every_key_that_is_read() {
    for (file, keys) in [("tuns.full.toml", keys::SERVER), ("tunc.full.toml", keys::CLIENT)] {
        let text = fs::read_to_string(conf().join(file)).unwrap();
        let mut names = Vec::new();
        collect(keys, "", &mut names);
        for (path, name) in names {
            assert!(text.contains(name), "{file} says nothing about `{path}`");
        }
    }
}

fn collect(keys: &'static [Key], path: &str, names: &mut Vec<(String, &'static str)>) {
    for key in keys.iter().filter(|key| key.status != Status::Later) {
        let path = join(path, key.name);
        collect(key.takes.children(), &path, names);
        if let Takes::Typed(_, types) = key.takes {
            types.iter().filter(|t| t.status != Status::Later).for_each(|t| collect(t.keys, &path, names));
        }
        names.push((path, key.name));
    }
}

#[test]
fn the_examples_mean_the_same_in_every_format_where_they_should() {
    let client = |name: &str| {
        let mut config = example_loader().client(&conf().join(name)).unwrap().config;
        config.source = None;
        config
    };
    assert_eq!(client("tunc.json"), client("tunc.toml"));
    assert_eq!(client("tunc.yaml").proxies[0], client("tunc.toml").proxies[0]);
    assert_eq!(client("tunc.includes.toml").proxies.len(), 2);
    assert_eq!(client("tunc.range.toml").proxies.len(), 6);
}

#[test]
fn the_pair_for_a_private_service_fits_together() {
    let [served, visited] = ["tunc.private.toml", "tunc.visitor.toml"]
        .map(|name| example_loader().client(&conf().join(name)).unwrap().config);
    let (proxy, visitor) = (&served.proxies[0], &visited.visitors[0]);
    let ProxyKind::Private { secret_key, allow_users, .. } = &proxy.kind else { panic!("{proxy:?}") };
    assert_eq!((&visitor.server_name, &visitor.secret_key), (&proxy.name, secret_key));
    assert!(allow_users.contains(&visited.user), "{allow_users:?}");
    assert_eq!(visitor.name, format!("{}.office-ssh", visited.user));
}
