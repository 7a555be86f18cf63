//! Which proxy is used, and what its URL may be.

use super::{Choice, Upstream};

fn environment(variables: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn chosen(variables: &[(&str, &str)], host: &str) -> Option<String> {
    let chosen = Choice::Environment.resolve(&environment(variables), host, 7000).unwrap();
    chosen.map(|upstream| upstream.to_string())
}

#[test]
fn a_url_names_kind_address_and_credentials() {
    let parsed = |text: &str| text.parse::<Upstream>().unwrap();
    assert_eq!(parsed("http://proxy").to_string(), "http://proxy:80");
    assert_eq!(parsed("proxy:3128").to_string(), "http://proxy:3128");
    assert_eq!(parsed("https://proxy").to_string(), "https://proxy:443");
    assert_eq!(parsed("socks5h://[2001:db8::1]").to_string(), "socks5://[2001:db8::1]:1080");
    let upstream = parsed("socks5://me:p%40ss%3A@proxy:9");
    assert_eq!(upstream.credentials, Some(("me".to_owned(), "p@ss:".to_owned())));
    assert!(!format!("{upstream} {upstream:?}").contains("p@ss"));
}

#[test]
fn what_is_no_proxy_is_refused_without_a_word_of_its_password() {
    for (text, why) in [
        ("ntlm://me:hush@proxy", "not supported"),
        ("ftp://proxy", "scheme \"ftp\""),
        ("http://", "URL"),
        ("http://me:hush@proxy:99999", "port"),
        ("http://me:%ff@proxy", "UTF-8"),
    ] {
        let error = text.parse::<Upstream>().unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
        assert!(!error.contains("hush"));
    }
}

#[test]
fn variables_of_the_environment_have_an_order() {
    assert_eq!(chosen(&[], "far.example"), None);
    let [http, all, https] = [("http_proxy", "one"), ("ALL_PROXY", "socks5://two"), ("HTTPS_PROXY", "three")];
    assert_eq!(chosen(&[http], "far.example").as_deref(), Some("http://one:80"));
    assert_eq!(chosen(&[http, all], "far.example").as_deref(), Some("socks5://two:1080"));
    assert_eq!(chosen(&[http, all, https], "far.example").as_deref(), Some("http://three:80"));
    // A web server passes what a visitor says as HTTP_PROXY.
    assert_eq!(chosen(&[("HTTP_PROXY", "evil")], "far.example"), None);
}

#[test]
fn exceptions_and_this_machine_are_reached_directly() {
    let proxy = ("https_proxy", "proxy");
    let no = ("NO_PROXY", "near.example,192.0.2.0/24");
    for host in ["near.example", "a.near.example", "192.0.2.9", "127.3.2.1", "::1", "localhost"] {
        assert_eq!(chosen(&[proxy, no], host), None, "{host}");
    }
    for host in ["far.example", "notnear.example", "192.0.3.9", "2001:db8::1"] {
        assert!(chosen(&[proxy, no], host).is_some(), "{host}");
    }
    assert_eq!(chosen(&[proxy, ("no_proxy", "*")], "far.example"), None);
}

#[test]
fn the_configuration_comes_before_the_environment() {
    let environment = environment(&[("https_proxy", "proxy")]);
    let resolve =
        |text: &str| text.parse::<Choice>().unwrap().resolve(&environment, "far.example", 1).unwrap();
    assert_eq!(resolve("direct"), None);
    assert_eq!(resolve("socks5://mine").unwrap().to_string(), "socks5://mine:1080");
    assert_eq!(resolve("").unwrap().to_string(), "http://proxy:80");
}

#[test]
fn a_variable_that_is_no_proxy_is_named() {
    let environment = environment(&[("ALL_PROXY", "gopher://x")]);
    let error = Choice::Environment.resolve(&environment, "far.example", 1).unwrap_err();
    assert!(error.contains("ALL_PROXY") && error.contains("gopher"), "{error}");
}
