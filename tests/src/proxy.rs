//! Small proxies, as companies have them between their networks and the outside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::certs::{Files, server};
use crate::net::Place;
use crate::service::Service;

/// What a proxy asks of those who use it.
#[derive(Debug, Clone)]
pub struct Rules {
    /// User and password, if it wants some.
    pub credentials: Option<(&'static str, &'static str)>,
    /// What names mean here: only the proxy can resolve them. Addresses are those of the same network.
    pub names: Place,
    /// Whether it connects to nothing.
    pub closed: bool,
    /// The only port that it connects to, if there is such a rule.
    pub only: Option<u16>,
}

impl Rules {
    /// Everybody may go everywhere; names mean `names`.
    pub fn open(names: impl Into<Place>) -> Self {
        Self { credentials: None, names: names.into(), closed: false, only: None }
    }

    /// Only those who know `user` and `password`.
    pub fn for_user(names: impl Into<Place>, user: &'static str, password: &'static str) -> Self {
        Self { credentials: Some((user, password)), ..Self::open(names) }
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        match host.parse::<IpAddr>() {
            Ok(ip) => self.names.beside(SocketAddr::new(ip, port)).connect().await,
            Err(_) => self.names.connect().await,
        }
    }
}

/// An HTTP proxy that knows CONNECT and nothing else.
pub async fn http(at: impl Into<Place>, rules: Rules) -> Service {
    let rules = Arc::new(rules);
    Service::start(at, move |stream, _| serve_http(stream, Arc::clone(&rules))).await
}

async fn serve_http(mut stream: TcpStream, rules: Arc<Rules>) -> io::Result<String> {
    let head = read_head(&mut stream).await?;
    let (status, extra) = match connect_target(&head) {
        None => ("405 Method Not Allowed", ""),
        Some(_) if !knows_credentials(&head, &rules) => {
            ("407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=\"x\"\r\n")
        }
        Some((_, port)) if rules.closed || rules.only.is_some_and(|only| only != port) => {
            ("403 Forbidden by policy", "")
        }
        Some((host, port)) => match rules.connect(&host, port).await {
            Ok(target) => {
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                return carry(stream, target).await;
            }
            Err(_) => ("502 Bad Gateway", ""),
        },
    };
    let answer = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(status.to_owned())
}

/// TLS in front of a proxy, or of anything.
pub async fn tls(at: SocketAddr, files: &Files, target: SocketAddr) -> Service {
    let acceptor = TlsAcceptor::from(Arc::new(server(files)));
    Service::start(at, move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut target = TcpStream::connect(target).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut target).await?;
            Ok("carried".to_owned())
        }
    })
    .await
}

/// A SOCKS5 proxy (RFC 1928, RFC 1929).
pub async fn socks5(at: impl Into<Place>, rules: Rules) -> Service {
    let rules = Arc::new(rules);
    Service::start(at, move |stream, _| serve_socks5(stream, Arc::clone(&rules))).await
}

async fn serve_socks5(mut stream: TcpStream, rules: Arc<Rules>) -> io::Result<String> {
    let mut offered = vec![0; usize::from(read::<2>(&mut stream).await?[1])];
    stream.read_exact(&mut offered).await?;
    let method = if rules.credentials.is_some() { 2 } else { 0 };
    if !offered.contains(&method) {
        stream.write_all(&[5, 0xff]).await?;
        return Ok("no acceptable method".to_owned());
    }
    stream.write_all(&[5, method]).await?;
    if let Some((user, password)) = rules.credentials {
        let len = read::<2>(&mut stream).await?[1];
        let given_user = read_text(&mut stream, len).await?;
        let len = read::<1>(&mut stream).await?[0];
        let given_password = read_text(&mut stream, len).await?;
        let right = (given_user.as_str(), given_password.as_str()) == (user, password);
        stream.write_all(&[1, u8::from(!right)]).await?;
        if !right {
            return Ok("wrong credentials".to_owned());
        }
    }
    let [_, _, _, kind] = read::<4>(&mut stream).await?;
    let host = match kind {
        1 => IpAddr::from(read::<4>(&mut stream).await?).to_string(),
        4 => IpAddr::from(read::<16>(&mut stream).await?).to_string(),
        _ => {
            let len = read::<1>(&mut stream).await?[0];
            read_text(&mut stream, len).await?
        }
    };
    let port = u16::from_be_bytes(read::<2>(&mut stream).await?);
    if rules.closed {
        stream.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        return Ok("closed".to_owned());
    }
    let target = rules.connect(&host, port).await?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    carry(stream, target).await
}

async fn carry(mut one: TcpStream, mut other: TcpStream) -> io::Result<String> {
    for stream in [&one, &other] {
        stream.set_nodelay(true)?;
    }
    tokio::io::copy_bidirectional(&mut one, &mut other).await?;
    Ok("carried".to_owned())
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn connect_target(head: &str) -> Option<(String, u16)> {
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?;
    let (host, port) = target.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

fn knows_credentials(head: &str, rules: &Rules) -> bool {
    let Some((user, password)) = rules.credentials else { return true };
    let wanted = format!("proxy-authorization: Basic {}", base64(&format!("{user}:{password}")));
    head.lines().any(|line| line.eq_ignore_ascii_case(&wanted))
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn read_text(stream: &mut TcpStream, len: u8) -> io::Result<String> {
    let mut bytes = vec![0; usize::from(len)];
    stream.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
