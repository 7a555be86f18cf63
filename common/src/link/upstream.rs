//! Proxies between a client and its server: HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928).
//!
//! The name of the server is left to the proxy to resolve, since behind a proxy there is often no DNS for the outside.
//! Nothing here has a deadline: the caller puts one around the whole way to the server.

use super::Io;
use super::tcp::Dialer;
use super::tls::web::WebTls;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderMap, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;
use url::Url;

/// How `transport.proxyURL` says that the environment's proxy is not wanted.
const DIRECT: &str = "direct";

/// A proxy and what it wants to know. Shows itself without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    kind: Kind,
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Https,
    Socks5,
}

/// Which proxy a client uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one of the environment, if there is one.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one.
    Through(Upstream),
}

/// Why a proxy did not connect.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The proxy itself cannot be reached.
    #[error("cannot connect to the proxy {proxy}: {source}")]
    Connect {
        /// The proxy.
        proxy: String,
        /// Why not.
        source: io::Error,
    },
    /// TLS with the proxy failed.
    #[error("TLS with the proxy {proxy} failed: {source}")]
    Tls {
        /// The proxy.
        proxy: String,
        /// Why.
        source: io::Error,
    },
    /// There are no credentials for a proxy that wants some, or it does not take them.
    #[error("the proxy {proxy} {what} ({said}): {advice}")]
    Credentials {
        /// The proxy.
        proxy: String,
        /// Whether there were any.
        what: &'static str,
        /// In the proxy's words.
        said: String,
        /// What to do.
        advice: &'static str,
    },
    /// The proxy does not connect to the server.
    #[error("the proxy {proxy} does not connect to {target}: {said}")]
    Refused {
        /// The proxy.
        proxy: String,
        /// The server.
        target: String,
        /// In the proxy's words.
        said: String,
    },
    /// It is no such proxy, or it broke off.
    #[error("the proxy {proxy} does not answer as one: {reason}")]
    Protocol {
        /// The proxy.
        proxy: String,
        /// What is wrong.
        reason: String,
    },
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Choice::Environment);
        }
        if text.eq_ignore_ascii_case(DIRECT) {
            return Ok(Choice::Direct);
        }
        text.parse().map(Choice::Through)
    }
}

impl std::str::FromStr for Upstream {
    type Err = String;

    /// `SCHEME://[USER:PASSWORD@]HOST[:PORT]`; the message of an error does not repeat the text, which may hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|error| format!("is not a URL: {error}"))?;
        let (kind, default_port) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https, 443),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            other => {
                return Err(format!(
                    "has the scheme {other:?}, which is not supported by this version of tun: use http, https or socks5"
                ));
            }
        };
        // The URL library knows brackets around IPv6 addresses only for the schemes of the web.
        let host =
            url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err("names no host".into());
        }
        let plain = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| "has a user name or a password that is not UTF-8".to_owned())
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some((plain(user)?, plain(password.unwrap_or_default())?)),
        };
        Ok(Upstream { kind, host, port: url.port().unwrap_or(default_port), credentials })
    }
}

/// The address, as people write it.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({self}, credentials: {})", self.credentials.is_some())
    }
}

impl Choice {
    /// The proxy on the way to a server, if there is one. The environment is asked in this order: `HTTPS_PROXY`,
    /// `ALL_PROXY`, each in capitals or not, and `http_proxy`, in small letters alone, as frp does; `NO_PROXY` makes
    /// exceptions. This machine is never reached through a proxy of the environment.
    ///
    /// # Errors
    /// What is wrong with a variable, which is named.
    pub fn resolve(
        &self,
        environment: &BTreeMap<String, String>,
        host: &str,
        port: u16,
    ) -> Result<Option<Upstream>, String> {
        match self {
            Choice::Direct => return Ok(None),
            Choice::Through(upstream) => return Ok(Some(upstream.clone())),
            Choice::Environment => {}
        }
        let variables = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"];
        let given = |name: &&str| environment.get(*name).filter(|value| !value.is_empty());
        let Some((name, value)) = variables.iter().find_map(|name| Some((name, given(name)?))) else {
            return Ok(None);
        };
        if is_this_machine(host) {
            return Ok(None);
        }
        let exceptions =
            ["no_proxy", "NO_PROXY"].iter().find_map(given).map(String::as_str).unwrap_or_default();
        // Which hosts a list of exceptions means is a matter of its own; the proxy here stands for any.
        let matcher = Matcher::builder().all("http://proxy").no(exceptions.to_owned()).build();
        let target = format!("https://{}", authority(host, port));
        let target = target.parse().map_err(|error| format!("{target} cannot be a server: {error}"))?;
        if matcher.intercept(&target).is_none() {
            return Ok(None);
        }
        let upstream = value.parse().map_err(|why| format!("the environment variable {name} {why}"))?;
        Ok(Some(upstream))
    }
}

impl Upstream {
    /// A connection to `host:port` through the proxy, nothing said on it yet, and the proxy's address. Cancellation safe: the connection is
    /// closed.
    ///
    /// # Errors
    /// [`UpstreamError`], naming the proxy and what it said.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        dialer: &Dialer,
        tls: &WebTls,
    ) -> Result<(Box<dyn Io>, SocketAddr), UpstreamError> {
        let failed = |source| UpstreamError::Connect { proxy: self.to_string(), source };
        let stream = dialer.dial(&self.host, self.port).await.map_err(failed)?;
        let peer = stream.peer_addr().map_err(failed)?;
        let io: Box<dyn Io> = match self.kind {
            Kind::Http => Box::new(self.tunnel(stream, host, port).await?),
            Kind::Https => {
                let secured = tls
                    .connect(&self.host, stream)
                    .await
                    .map_err(|source| UpstreamError::Tls { proxy: self.to_string(), source })?;
                Box::new(self.tunnel(secured, host, port).await?)
            }
            Kind::Socks5 => Box::new(self.socks(stream, host, port).await?),
        };
        Ok((io, peer))
    }

    /// Asks an HTTP proxy for a tunnel.
    async fn tunnel<S: Io + 'static>(&self, stream: S, host: &str, port: u16) -> Result<S, UpstreamError> {
        let target = authority(host, port);
        let broken = |error: hyper::Error| self.broken(&error);
        let mut request = Request::builder().method(Method::CONNECT).uri(&target).header(HOST, &target);
        if let Some((user, password)) = &self.credentials {
            let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
            let mut value = HeaderValue::try_from(basic).map_err(|error| self.broken(&error))?;
            value.set_sensitive(true);
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| self.broken(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            if !response.status().is_success() {
                return Err(self.refused(response.status(), response.headers(), target));
            }
            hyper::upgrade::on(response).await.map_err(broken)
        };
        let (mut exchange, mut connection) = (pin!(exchange), pin!(connection.with_upgrades()));
        let mut ended = false;
        let upgraded = loop {
            tokio::select! {
                result = &mut exchange => break result?,
                // Its error reaches the exchange as well.
                _ = &mut connection, if !ended => ended = true,
            }
        };
        let parts = upgraded
            .downcast::<TokioIo<S>>()
            .map_err(|_| self.broken(&"the connection is not the one that was opened"))?;
        // The server never speaks first.
        if !parts.read_buf.is_empty() {
            return Err(self.broken(&"it sent bytes of its own behind its answer"));
        }
        Ok(parts.io.into_inner())
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap, target: String) -> UpstreamError {
        let said = status.to_string();
        if !matches!(status, StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED) {
            return UpstreamError::Refused { proxy: self.to_string(), target, said };
        }
        let mut schemes = headers.get_all(PROXY_AUTHENTICATE).iter().peekable();
        let usable = schemes.peek().is_none()
            || schemes.any(|scheme| scheme.as_bytes().to_ascii_lowercase().starts_with(b"basic"));
        self.wants_credentials(said, usable)
    }

    async fn socks(&self, stream: TcpStream, host: &str, port: u16) -> Result<TcpStream, UpstreamError> {
        // A name goes to the proxy as a name.
        let target = (host, port);
        let connected = match &self.credentials {
            None => Socks5Stream::connect_with_socket(stream, target).await,
            Some((user, password)) => {
                Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
            }
        };
        match connected {
            Ok(connected) => Ok(connected.into_inner()),
            Err(error) => Err(self.socks_error(error, authority(host, port))),
        }
    }

    fn socks_error(&self, error: tokio_socks::Error, target: String) -> UpstreamError {
        use tokio_socks::Error;
        match error {
            Error::NoAcceptableAuthMethods | Error::UnknownAuthMethod | Error::PasswordAuthFailure(_) => {
                self.wants_credentials(error.to_string(), true)
            }
            Error::InvalidAuthValues(_) => self.broken(&error),
            Error::InvalidResponseVersion | Error::InvalidReservedByte | Error::UnknownAddressType => {
                self.broken(&format!("{error} (is it a SOCKS5 proxy?)"))
            }
            Error::Io(source) => self.broken(&source),
            other => UpstreamError::Refused { proxy: self.to_string(), target, said: other.to_string() },
        }
    }

    fn wants_credentials(&self, said: String, usable: bool) -> UpstreamError {
        let (what, advice) = match (usable, &self.credentials) {
            (false, _) => (
                "wants credentials of a kind that tun does not speak",
                "only Basic is supported by this version of tun",
            ),
            (true, None) => ("wants credentials", "write them as USER:PASSWORD@ into its URL"),
            (true, Some(_)) => ("does not take these credentials", "check user and password in its URL"),
        };
        UpstreamError::Credentials { proxy: self.to_string(), what, said, advice }
    }

    fn broken(&self, reason: &dyn fmt::Display) -> UpstreamError {
        UpstreamError::Protocol { proxy: self.to_string(), reason: reason.to_string() }
    }
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn is_this_machine(host: &str) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests;
