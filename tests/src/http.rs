//! Just enough of an HTTP client to move a file and hash it on the way.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::pattern::{Hash, Pattern};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// How long the body was.
    pub len: u64,
    /// The SHA-256 of the body.
    pub digits: String,
}

/// Downloads `path`.
///
/// # Panics
/// If the connection breaks, or the answer is not HTTP, or not as long as it announces.
pub async fn get(addr: SocketAddr, path: &str) -> Answer {
    try_get(addr, path).await.expect("a download is answered")
}

async fn try_get(addr: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = BufReader::with_capacity(256 * 1024, TcpStream::connect(addr).await?);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    read_answer(&mut stream).await
}

/// Uploads `len` bytes of the pattern of `seed` as `path`.
///
/// # Panics
/// As [`get`].
pub async fn put(addr: SocketAddr, path: &str, seed: u64, len: u64) -> Answer {
    try_put(addr, path, seed, len).await.expect("an upload is answered")
}

async fn try_put(addr: SocketAddr, path: &str, seed: u64, len: u64) -> io::Result<Answer> {
    let mut stream = BufReader::new(TcpStream::connect(addr).await?);
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 256 * 1024];
    let mut left = len;
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        pattern.fill(&mut buffer[..n]);
        stream.write_all(&buffer[..n]).await?;
        left -= n as u64;
    }
    stream.flush().await?;
    read_answer(&mut stream).await
}

async fn read_answer(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid(format!("not a status line: {line:?}")))?;
    let mut len = None;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            len = value.trim().parse::<u64>().ok();
        }
    }
    let expected = len.ok_or_else(|| invalid("the answer has no length".to_owned()))?;
    let (mut hash, mut len) = (Hash::default(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => {
                hash.feed(&buffer[..n]);
                len += n as u64;
            }
        }
    }
    if len != expected {
        return Err(invalid(format!("{len} bytes came, {expected} were announced")));
    }
    Ok(Answer { status, len, digits: hash.digits() })
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
