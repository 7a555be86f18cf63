//! What users can rely on, one sentence a test.

mod bandwidth;
mod examples;
mod files;
mod hostile;
mod meaning;
mod refusals;

use super::*;

/// A loader that does not see the environment of the test run.
fn loader() -> Loader {
    Loader { strict: true, env: Env::from([("TUN_TEST".to_owned(), "hello".to_owned())]), token: None }
}

fn server(text: &str) -> ServerConfig {
    loader().server_from_str(text).map(|loaded| loaded.config).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

fn client(text: &str) -> ClientConfig {
    loader().client_from_str(text).map(|loaded| loaded.config).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// Line and sentence of every problem.
fn problems<T: std::fmt::Debug>(outcome: Result<Loaded<T>, ConfigError>) -> Vec<(u32, String)> {
    let error = outcome.expect_err("a refusal");
    error.problems().iter().map(|p| (p.line.unwrap_or(0), p.message.clone())).collect()
}

fn server_problems(text: &str) -> Vec<(u32, String)> {
    problems(loader().server_from_str(text))
}

fn client_problems(text: &str) -> Vec<(u32, String)> {
    problems(loader().client_from_str(text))
}

/// The only problem of a text.
fn only(problems: Vec<(u32, String)>) -> (u32, String) {
    match <[_; 1]>::try_from(problems) {
        Ok([problem]) => problem,
        Err(problems) => panic!("not one problem: {problems:#?}"),
    }
}

/// A visitor that is complete, as the end of a client's file.
const VISITOR: &str = "\n[[visitors]]\nname = \"v\"\ntype = \"stcp\"\nserverName = \"web\"\nsecretKey = \"s\"\nbindPort = 9000\n";

/// A proxy that is complete, as the end of a client's file.
const PROXY: &str = "\n[[proxies]]\nname = \"web\"\ntype = \"tcp\"\nlocalPort = 80\n";
