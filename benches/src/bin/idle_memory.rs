//! What an idle proxied connection costs: resident memory of the server and of its clients.
//!
//! Starts the real release binaries, two clients with 5,000 idle connections each, and prints KiB per connection
//! and side. Services and visitors are child processes of their own (this program again, in another role), so
//! that no process exceeds the usual limit of 20,000 open files, and so that only the two programs are measured.
//!
//! `cargo run --release -p tun-benches --bin idle_memory -- --max-kib 8`

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::{Launch, Program, raise_open_files};
use tun_tests::tunnel::{Proxy, client_config, server_config};

const CLIENTS: u16 = 2;

/// Connections that are opened at a time.
const OPENING: usize = 64;

/// Measures the resident memory of idle proxied connections.
#[derive(Debug, Parser)]
struct Args {
    /// Idle connections of each of the two clients
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// Fail when a connection costs one of the programs more than so many KiB
    #[arg(long)]
    max_kib: Option<f64>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What a child process does. Each says one line when it is ready.
#[derive(Debug, Clone, Subcommand)]
#[command(hide = true)]
enum Role {
    /// Echoes what it gets
    Echo { addr: SocketAddr },
    /// Opens connections, holds them, and checks some of them for each line of its input
    Hold { addr: SocketAddr, connections: usize },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    raise_open_files();
    match args.role {
        Some(Role::Echo { addr }) => echo(addr).await.map(|()| ExitCode::SUCCESS),
        Some(Role::Hold { addr, connections }) => hold(addr, connections).await.map(|()| ExitCode::SUCCESS),
        None => measure(args.connections, args.max_kib).await,
    }
}

async fn measure(connections: usize, max_kib: Option<f64>) -> Result<ExitCode> {
    let built = tun_tests::binaries::build(true);
    let program = |name: &str| built.get(name).with_context(|| format!("cargo built no {name}"));
    let net = Loopback::claim();
    let server = Launch::of("tuns", program("tuns")?).config(&server_config(&net, "")).start();
    server.line("listening on").await;

    let mut sides = vec![Side::new("server", server, connections * usize::from(CLIENTS))];
    let mut helpers = Vec::new();
    for n in 0..CLIENTS {
        let local = net.at(SERVICE_PORT + n);
        helpers.push(Helper::start(&["echo", &local.to_string()]).await?);
        let name = format!("client {}", n + 1);
        let proxy = Proxy { name: "echo".to_owned() + &n.to_string(), local, remote_port: REMOTE_PORT + n };
        let config = client_config(net.at(BIND_PORT), &format!("clientID = \"{name}\""), &[proxy]);
        let client = Launch::of(&name, program("tunc")?).config(&config).start();
        client.line("start proxy success").await;
        sides.push(Side::new(&name, client, connections));
    }

    sides.iter_mut().for_each(Side::measure_before);
    let mut holders = Vec::new();
    for n in 0..CLIENTS {
        let public = net.at(REMOTE_PORT + n).to_string();
        holders.push(Helper::start(&["hold", &public, &connections.to_string()]).await?);
    }
    println!("{CLIENTS} clients with {connections} idle connections each");
    let costs: Vec<f64> = sides.iter().map(Side::report).collect();
    for holder in &mut holders {
        println!("{}", holder.ask().await?);
    }

    let worst = costs.into_iter().fold(0.0, f64::max);
    if let Some(max) = max_kib.filter(|&max| worst > max) {
        println!("a connection costs {worst:.2} KiB, more than the {max:.2} KiB it may");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// A program that is measured.
struct Side {
    name: String,
    program: Program,
    connections: usize,
    before: u64,
}

impl Side {
    fn new(name: &str, program: Program, connections: usize) -> Self {
        Self { name: name.to_owned(), program, connections, before: 0 }
    }

    fn measure_before(&mut self) {
        self.before = self.program.resident_kib();
    }

    /// Prints and returns the KiB per connection.
    fn report(&self) -> f64 {
        let after = self.program.resident_kib();
        let each = after.saturating_sub(self.before) as f64 / self.connections as f64;
        let Self { name, connections, before, .. } = self;
        println!(
            "{name}: {each:.2} KiB per connection ({before} KiB before, {after} KiB with {connections})"
        );
        each
    }
}

/// A child process in one of the roles. It ends with this value.
struct Helper {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts it, and waits until it is ready.
    async fn start(args: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("a helper process")?;
        let orders = child.stdin.take().context("its input is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
        let mut helper = Self { _child: child, orders, answers };
        helper.answer().await?;
        Ok(helper)
    }

    async fn ask(&mut self) -> Result<String> {
        self.orders.write_all(b"check\n").await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<String> {
        self.answers.next_line().await?.context("a helper process failed, see above")
    }
}

/// Says a line to the parent process.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

async fn echo(addr: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(addr).await?;
    say("listening")?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn hold(addr: SocketAddr, connections: usize) -> Result<()> {
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let batch = OPENING.min(connections - held.len());
        let opening = (0..batch).map(|_| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(addr).await?;
                // A byte there and back: the connection exists on all sides.
                visit(&mut stream).await?;
                anyhow::Ok(stream)
            })
        });
        for opened in opening.collect::<Vec<_>>() {
            held.push(opened.await?.with_context(|| format!("a connection to {addr}"))?);
        }
    }
    say("holding")?;
    tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next())
        .await?
        .context("no order came")??;
    let step = (connections / 100).max(1);
    let mut checked = 0;
    for stream in held.iter_mut().step_by(step) {
        visit(stream).await.context("an idle connection does not echo any more")?;
        checked += 1;
    }
    say(&format!("{checked} of {connections} connections checked: they still echo"))
}

async fn visit(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"?").await?;
    let answer = stream.read_u8().await?;
    ensure!(answer == b'?', "not an echo: {answer}");
    Ok(())
}
