//! Two clients with one identity, as when a configuration file was copied to a second host.

use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::soon;
use tun_tests::program::{Launch, Program};
use tun_tests::service::Service;
use tun_tests::tunnel::{Proxy, Setup, client_config};
use tun_tests::visitor::Visitor;

const STANDING_BY: &str = "standing by";
const LOGGED_IN: &str = "logged in from";
const PUBLIC: &str = "[name] start proxy success";

/// Heartbeats are sent every second here, and make the window in which nothing may change.
const TWIN: &str = "clientID = \"twin\"\nlog.level = \"debug\"\ntransport.heartbeatInterval = 1";

fn twin(net: &Loopback, label: &str, service: &Service) -> Launch {
    let proxy = Proxy { name: "name".to_owned(), local: service.addr(), remote_port: REMOTE_PORT };
    Launch::client().labelled(label).config(&client_config(net.at(BIND_PORT), TWIN, &[proxy]))
}

async fn name_behind(net: &Loopback) -> String {
    let mut visitor = Visitor::connect(net.at(REMOTE_PORT)).await;
    visitor.finish().await;
    visitor.receive_text().await
}

/// Waits for `count` more heartbeats of a client: a time that passes in events.
async fn heartbeats(client: &Program, count: usize) {
    let so_far = client.log().count("send heartbeat to server");
    client.nth("send heartbeat to server", so_far + count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_do_not_evict_each_other_and_one_takes_over_when_the_other_dies() {
    let net = Loopback::claim();
    let first_service = Service::named(net.at(SERVICE_PORT), "first").await;
    let second_service = Service::named(net.at(SERVICE_PORT + 1), "second").await;
    let setup = Setup::new(net);
    let served = setup.serve().await;
    let net = setup.net();

    let first = twin(net, "tunc first", &first_service).start();
    first.line(PUBLIC).await;
    let second = twin(net, "tunc second", &second_service).start();
    let first_stands_by = soon("one of the twins stands by", async {
        tokio::select! {
            _ = first.line(STANDING_BY) => true,
            _ = second.line(STANDING_BY) => false,
        }
    })
    .await;
    let (winner, its_name, loser, other_name) = match first_stands_by {
        true => (second, "second", first, "first"),
        false => (first, "first", second, "second"),
    };
    winner.line(PUBLIC).await;

    // Both were in once; what the server says of it may arrive here after what the clients say.
    served.server.nth(LOGGED_IN, 2).await;
    let logins = served.server.log().count(LOGGED_IN);
    for _ in 0..5 {
        heartbeats(&winner, 2).await;
        for _ in 0..20 {
            assert_eq!(name_behind(net).await, its_name);
        }
    }
    assert_eq!(served.server.log().count(LOGGED_IN), logins, "a twin logged in again");
    assert_eq!(winner.log().count(STANDING_BY), 0);
    assert_eq!(loser.log().count(STANDING_BY), 1, "it is said once");

    let successes = loser.log().count(PUBLIC);
    winner.kill().await;
    loser.nth(PUBLIC, successes + 1).await;
    assert_eq!(name_behind(net).await, other_name);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_different_identities_do_not_disturb_each_other() {
    let net = Loopback::claim();
    let service = Service::named(net.at(SERVICE_PORT), "service").await;
    let setup = Setup::new(net);
    let served = setup.serve().await;
    let net = setup.net();
    let mut clients = Vec::new();
    for n in 0..5 {
        let proxy = Proxy { name: format!("p{n}"), local: service.addr(), remote_port: REMOTE_PORT + n };
        let lines = format!("clientID = \"host-{n}\"");
        let launch = Launch::client().labelled(&format!("tunc {n}"));
        let client = launch.config(&client_config(net.at(BIND_PORT), &lines, &[proxy])).start();
        client.line("start proxy success").await;
        clients.push(client);
    }
    for n in 0..5 {
        let mut visitor = Visitor::connect(net.at(REMOTE_PORT + n)).await;
        visitor.finish().await;
        assert_eq!(visitor.receive_text().await, "service");
    }
    assert!(clients.iter().all(|client| client.log().count(STANDING_BY) == 0));
    assert_eq!(served.server.log().count(LOGGED_IN), 5);
}
