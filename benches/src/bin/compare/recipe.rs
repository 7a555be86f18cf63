//! How a tunnel is started, and how it runs.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::net::TcpStream;
use tun_benches::processor;
use tun_tests::net::{Loopback, Place};
use tun_tests::patience::soon;
use tun_tests::program::{Launch, Program};

use crate::contender::Contender;
use crate::stage::{Service, Stage};

/// The programs of a tunnel, not started yet. The direct way has none.
#[derive(Debug, Default)]
pub(crate) struct Recipe {
    pub(crate) server: Option<Role>,
    pub(crate) clients: Vec<Role>,
}

/// One of the programs.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) launch: Launch,
    pub(crate) ready: Ready,
}

/// How it is known that a program is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ready {
    /// It has said this so many times.
    Says(&'static str, usize),
    /// It accepts connections there.
    Accepts(SocketAddr),
}

/// A running tunnel. Its programs end with this value.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) contender: Contender,
    pub(crate) server: Option<Program>,
    pub(crate) clients: Vec<Program>,
    /// Keeps its address from others.
    pub(crate) _claim: Option<Loopback>,
}

impl Role {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&self) -> Program {
        let program = self.launch.start();
        match self.ready {
            Ready::Says(text, count) => {
                program.nth(text, count).await;
            }
            Ready::Accepts(address) => {
                let connecting = async {
                    while TcpStream::connect(address).await.is_err() {
                        // A port that is not open yet tells nobody when it will be.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                soon("a program accepts connections", connecting).await;
            }
        }
        program
    }
}

impl Recipe {
    /// Starts the server, and then the clients.
    pub(crate) async fn start(&self, contender: Contender, claim: Option<Loopback>) -> Running {
        let mut running = Running { contender, server: None, clients: Vec::new(), _claim: claim };
        if let Some(server) = &self.server {
            running.server = Some(server.start().await);
        }
        for client in &self.clients {
            running.clients.push(client.start().await);
        }
        running
    }
}

impl Running {
    /// Where a visitor finds a service: the server's port, or the service itself where there is no tunnel.
    pub(crate) fn public(&self, stage: Stage<'_>, service: &Service) -> Place {
        stage.seen_by_visitor(match self.server {
            Some(_) => SocketAddr::new(stage.server, service.public_port),
            None => service.local,
        })
    }

    /// Processor time of its programs so far, in seconds; `None` where there are none.
    pub(crate) fn processor_seconds(&self) -> Result<Option<f64>> {
        if self.server.is_none() {
            return Ok(None);
        }
        let programs = self.server.iter().chain(&self.clients);
        Ok(Some(programs.map(|program| processor::seconds(program.pid())).sum::<Result<f64>>()?))
    }

    /// Resident memory of the server and of the clients, in KiB; `None` where there are none.
    pub(crate) fn resident_kib(&self) -> Result<Option<(f64, f64)>> {
        let Some(server) = &self.server else { return Ok(None) };
        let programs = || self.server.iter().chain(&self.clients);
        ensure!(programs().all(Program::is_running), "one of its programs has ended");
        let clients: u64 = self.clients.iter().map(Program::resident_kib).sum();
        Ok(Some((server.resident_kib() as f64, clients as f64)))
    }
}
