//! Where the programs are.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tun_tests::lab;

/// Programs that are measured, or measure. Those that are missing are `None`.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) tuns: PathBuf,
    pub(crate) tunc: PathBuf,
    pub(crate) frps: Option<PathBuf>,
    pub(crate) frpc: Option<PathBuf>,
    pub(crate) rathole: Option<PathBuf>,
    pub(crate) bore: Option<PathBuf>,
    pub(crate) nginx: Option<PathBuf>,
    /// The module that lets nginx forward connections, where it is not built in.
    pub(crate) nginx_stream: Option<PathBuf>,
    pub(crate) wrk: Option<PathBuf>,
}

/// Where distributions put nginx's modules.
const NGINX_MODULES: [&str; 3] =
    ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules"];

impl Tools {
    /// Looks for all of them: in the environment variable of its name, then on the PATH. Builds ours.
    ///
    /// # Errors
    /// Ours do not build.
    pub(crate) fn find() -> Result<Self> {
        let (tuns, tunc) = tun_benches::programs::executables()?;
        let modules = NGINX_MODULES.map(|dir| Path::new(dir).join("ngx_stream_module.so"));
        Ok(Self {
            tuns,
            tunc,
            frps: find("frps"),
            frpc: find("frpc"),
            rathole: find("rathole"),
            bore: find("bore"),
            nginx: find("nginx"),
            nginx_stream: modules.into_iter().find(|file| file.is_file()),
            wrk: find("wrk"),
        })
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(name.to_uppercase()).map(PathBuf::from);
    named.or_else(|| lab::find(name))
}
