//! The server from start to stop: build everything, bind, announce, serve, drain.

use crate::accept::Gate;
use crate::clients::Clients;
use crate::quic;
use crate::reflect;
use crate::settings::Settings;
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;
use tun_common::config::ServerConfig;
use tun_common::lifecycle::Tasks;
use tun_common::link::tcp;
use tun_common::session::Session;
use tun_common::shutdown::Shutdown;
use tun_proto::registry::Registry;

/// How long goodbyes may take to reach the clients.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);

/// How long tasks may take to end once they are told to.
const LAST_DEADLINE: Duration = Duration::from_secs(1);

/// Runs the server until it is told to stop.
pub(crate) async fn run(config: &ServerConfig) -> anyhow::Result<()> {
    let settings = Arc::new(Settings::new(config)?);
    let tasks = Tasks::new();
    let shutdown = Shutdown::listen(&tasks).context("signals cannot be listened to")?;
    let listener = tcp::listen(settings.bind)
        .with_context(|| format!("cannot listen on {} (bindAddr, bindPort)", settings.bind))?;
    let address = listener.local_addr()?;
    let ports = quic::bind(config.quic_ports, address)?;
    let reflecting = tasks.child();
    let stun = reflect::start(&config.stun, address, &ports, &reflecting)?;
    let quic = quic::listen(&ports, &settings)?;
    let registry = Registry::new(config.allow_ports.clone(), config.max_ports_per_client);
    let clients = Clients::new(settings.clone(), registry, tasks.child());
    let accepting = tasks.child();
    let gate = Gate::new(clients.clone(), stun, tasks.child());
    for listener in &quic {
        accepting.spawn(gate.clone().serve_quic(listener.clone()));
    }
    accepting.spawn(gate.serve(listener));
    tracing::info!("tuns {} listening on {address}", env!("CARGO_PKG_VERSION"));
    tracing::info!("certificate fingerprint (SHA-256) {}", settings.tls.fingerprint());

    shutdown.asked().await;
    accepting.stop();
    reflecting.stop();
    let sessions = clients.begin_stop();
    tracing::info!("stopping, draining for up to {}s", settings.drain_timeout.as_secs());
    let drained = tokio::select! {
        drained = tokio::time::timeout(settings.drain_timeout, drain(&sessions)) => drained.is_ok(),
        () = shutdown.insisted() => false,
    };
    if !drained {
        let left: usize = sessions.iter().map(|session| session.stream_count().saturating_sub(1)).sum();
        tracing::warn!("{left} connections were cut");
    }
    clients.say_goodbye();
    let gone = async {
        for session in &sessions {
            session.over().await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(GOODBYE_DEADLINE, gone) => {}
        () = shutdown.insisted() => {}
    }
    for session in &sessions {
        session.end("the server was stopped");
    }
    tasks.shut_down(LAST_DEADLINE).await;
    quic::close(&quic).await;
    tracing::info!("stopped");
    Ok(())
}

/// Waits until there are no streams but control channels.
async fn drain(sessions: &[Session]) {
    for session in sessions {
        session.drained(1).await;
    }
}
