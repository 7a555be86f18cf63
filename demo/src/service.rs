//! The private service: a small HTTP server on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts it on a free port, and returns its address.
pub(crate) async fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for the service")?;
    let addr = listener.local_addr()?;
    tokio::spawn(serve(listener));
    Ok(addr)
}

async fn serve(listener: TcpListener) {
    let asked = Arc::new(AtomicU64::new(0));
    loop {
        // A connection that broke before it was accepted is no reason to stop.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let asked = Arc::clone(&asked);
        let answer = service_fn(move |request| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, Infallible>(answer(&request, number)))
        });
        tokio::spawn(async move {
            // A visitor that leaves early is none of our business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// The first request, number 0, is our own check.
fn answer(request: &Request<Incoming>, number: u64) -> Response<Full<Bytes>> {
    let text = match number {
        0 => "ready\n".to_owned(),
        n => format!(
            "Hello from behind the tunnel: you asked for {}, as visitor number {n}.\n",
            request.uri().path()
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Asks for a page at the public address.
pub(crate) async fn check(public: &str) -> Result<()> {
    let mut stream = TcpStream::connect(public).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {public}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK"), "it answers {answer:?}");
    Ok(())
}
