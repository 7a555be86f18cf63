//! One network namespace, and the tools that shape it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::internet;

/// How all names begin.
const NAME: &str = "tunlab";

/// Where `ip` keeps its names.
const NAMES: &str = "/run/netns";

/// A namespace. It goes with this value, except from programs that still run in it.
#[derive(Debug)]
pub struct Space {
    name: String,
}

/// The beginning of the names of this process's lab with this number.
pub(super) fn prefix(number: u32) -> String {
    format!("{NAME}-{}-{number}", std::process::id())
}

/// Why there can be no lab here, found out by making a namespace. Sweeps what processes that are gone have left.
pub(super) fn obstacle() -> Option<String> {
    for tool in ["ip", "nft", "conntrack"] {
        if find(tool).is_none() {
            return Some(format!("{tool} is not installed"));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    sweep();
    let name = format!("{NAME}-{}-try", std::process::id());
    if let Err(error) = run("ip", &["netns", "add", &name], "") {
        return Some(error);
    }
    let space = Space { name };
    let filter = run("ip", &["netns", "exec", &space.name, &path("nft"), "-f", "-"], "table ip t { }\n");
    filter.err().or_else(|| internet::open(&space).err().map(|error| format!("no TUN device: {error}")))
}

/// The names of all namespaces of this machine.
pub fn names() -> BTreeSet<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Makes a namespace as the process `maker` would have, to be swept.
pub fn leave(maker: u32) -> Space {
    Space::create(&format!("{NAME}-{maker}-0-left"))
}

/// Removes namespaces whose makers are gone, and what they left running in there.
pub fn sweep() {
    for name in names() {
        let maker = name.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        let Some(maker) = maker.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new(&format!("/proc/{maker}")).exists() {
            continue;
        }
        let inside = Command::new(tool("ip")).args(["netns", "pids", &name]).output();
        let inside =
            inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for pid in inside.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // Another test may sweep at the same time.
        let _ = run("ip", &["netns", "del", &name], "");
    }
}

impl Space {
    /// A new namespace with a loopback interface.
    pub(super) fn create(name: &str) -> Self {
        must(run("ip", &["netns", "add", name], ""));
        let space = Space { name: name.to_owned() };
        space.ip("link set lo up");
        space
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in this namespace; the arguments are separated by spaces.
    #[track_caller]
    pub fn ip(&self, args: &str) {
        let args: Vec<&str> = ["-n", &self.name].into_iter().chain(args.split_whitespace()).collect();
        must(run("ip", &args, ""));
    }

    /// Several commands of `ip` in this namespace, one a line.
    #[track_caller]
    pub fn ip_batch(&self, lines: &str) {
        must(run("ip", &["-n", &self.name, "-batch", "-"], lines));
    }

    /// Does something in this namespace. Sockets that are made there stay there.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        within(&self.name, action)
    }

    /// Makes a router forget all connections.
    #[track_caller]
    pub(super) fn forget_connections(&self) {
        must(run("ip", &["netns", "exec", &self.name, &path("conntrack"), "-F"], ""));
    }

    /// Adds rules for the packet filter.
    #[track_caller]
    pub fn nft(&self, rules: &str) {
        must(run("ip", &["netns", "exec", &self.name, &path("nft"), "-f", "-"], rules));
    }

    /// The command line that starts something in here: to be put in front of it.
    pub fn enter(&self) -> Vec<OsString> {
        let words = [tool("ip").into_os_string(), "netns".into(), "exec".into(), OsString::from(&self.name)];
        words.into()
    }

    /// Sets a number below `/proc/sys/net`.
    #[track_caller]
    pub fn set(&self, key: &str, value: u32) {
        let script = format!("echo {value} > /proc/sys/net/{key}");
        must(run("ip", &["netns", "exec", &self.name, "sh", "-c", &script], ""));
    }

    /// Keeps the rules for routed packets from bridged ones, where the kernel has that bad habit.
    pub(super) fn spare_bridged(&self) {
        let script =
            "for file in /proc/sys/net/bridge/bridge-nf-call-ip*; do [ ! -e $file ] || echo 0 > $file; done";
        must(run("ip", &["netns", "exec", &self.name, "sh", "-c", script], ""));
    }

    /// Lets packets pass.
    pub(super) fn forward(&self) {
        self.set("ipv4/ip_forward", 1);
        self.set("ipv6/conf/all/forwarding", 1);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.name], "");
    }
}

/// Does something in the namespace of this name, on a thread of its own, for it does not come back from there.
pub(crate) fn within<T: Send>(name: &str, action: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let file = fs::File::open(Path::new(NAMES).join(name)).expect("the namespace is there");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a namespace can be entered");
        action()
    };
    std::thread::scope(|scope| scope.spawn(enter).join()).expect("what is done there does not panic")
}

#[track_caller]
fn must(result: Result<(), String>) {
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Runs a tool to its end.
fn run(name: &str, args: &[&str], input: &str) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("{name} {}: {error}", args.join(" "));
    let mut child = Command::new(tool(name))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| said(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read its input says so at its end.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| said(&error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(said(&String::from_utf8_lossy(&output.stderr).trim_end())),
    }
}

fn tool(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| name.into())
}

fn path(name: &str) -> String {
    tool(name).to_string_lossy().into_owned()
}

/// Where a program is. Debian keeps some where not every user looks.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.is_file())
}
