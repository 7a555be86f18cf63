//! A real nginx, which serves a directory and takes files by PUT.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::TcpStream;

use crate::certs::Files;
use crate::eventually::eventually;
use crate::pattern::{Hash, Pattern};
use crate::program::{Launch, Program};

/// A running nginx with its own directory.
#[derive(Debug)]
pub struct Nginx {
    addr: SocketAddr,
    program: Program,
    files: PathBuf,
}

impl Nginx {
    /// Starts it on `addr`, and waits until it answers.
    pub async fn start(addr: SocketAddr) -> Self {
        Self::serving(addr, &format!("listen {addr};"), "").await
    }

    /// Starts it in front of `target`, to which it passes WebSockets at `path`: over TLS if it has a certificate, and
    /// over TLS again if `target` is a URL with https.
    pub async fn in_front_of(addr: SocketAddr, path: &str, target: &str, tls: Option<&Files>) -> Self {
        let listen = match tls {
            None => format!("listen {addr};"),
            Some(Files { cert, key }) => format!(
                "listen {addr} ssl; ssl_certificate {}; ssl_certificate_key {};",
                cert.display(),
                key.display()
            ),
        };
        let location = format!(
            "location {path} {{
                 proxy_pass {target};
                 proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection \"upgrade\";
                 proxy_set_header Host $host;
                 proxy_read_timeout 60s;
             }}"
        );
        Self::serving(addr, &listen, &location).await
    }

    async fn serving(addr: SocketAddr, listen: &str, location: &str) -> Self {
        let launch = Launch::of("nginx", executable());
        let dir = launch.dir();
        let files = dir.join("files");
        std::fs::create_dir(&files).expect("a directory can be made");
        let config = launch.write("nginx.conf", &configuration(dir, listen, location));
        let program = launch.args([Path::new("-c"), &config, Path::new("-e"), Path::new("stderr")]).start();
        eventually("nginx answers", || async { TcpStream::connect(addr).await.ok() }).await;
        assert!(program.is_running(), "{}", program.log().tail());
        Self { addr, program, files }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The directory it serves, and puts files into.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Puts `len` bytes of the pattern of `seed` into a file, in steps of 1 MiB; returns the SHA-256 of them.
    pub fn write_pattern(&self, name: &str, seed: u64, len: u64) -> String {
        let mut file = File::create(self.files.join(name)).expect("a file can be made");
        let (mut pattern, mut hash) = (Pattern::new(seed), Hash::default());
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..len / buffer.len() as u64 {
            pattern.fill(&mut buffer);
            hash.feed(&buffer);
            file.write_all(&buffer).expect("the disk has room");
        }
        hash.digits()
    }

    /// The length of a file, and its SHA-256.
    pub fn digits_of(&self, name: &str) -> (u64, String) {
        let file = File::open(self.files.join(name)).expect("the file is there");
        let len = file.metadata().expect("a file has a length").len();
        (len, Hash::of(file).digits())
    }

    /// The process, for its log.
    pub fn program(&self) -> &Program {
        &self.program
    }
}

/// Debian puts it where not every user's PATH looks.
fn executable() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join("nginx"))
        .find(|candidate| candidate.is_file())
        .expect("nginx is installed (apt-get install nginx-light)")
}

/// A single process in the foreground, so that nothing is left when it is killed.
fn configuration(dir: &Path, listen: &str, location: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
         master_process off;
         pid {dir}/nginx.pid;
         events {{ worker_connections 1024; }}
         http {{
             access_log off;
             sendfile on;
             tcp_nopush on;
             client_max_body_size 0;
             client_body_temp_path {dir}/body;
             proxy_temp_path {dir}/proxy;
             fastcgi_temp_path {dir}/fastcgi;
             uwsgi_temp_path {dir}/uwsgi;
             scgi_temp_path {dir}/scgi;
             server {{
                 {listen}
                 {location}
                 root {dir}/files;
                 dav_methods PUT;
             }}
         }}\n"
    )
}
