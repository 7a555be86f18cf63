//! Starting, watching and ending the programs under test.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process, setrlimit, waitid,
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::binaries;
use crate::lab::Space;
use crate::log::{Line, Log};
use crate::patience::soon;

/// Variables that name proxies.
const PROXY_VARIABLES: [&str; 7] =
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "http_proxy", "NO_PROXY", "no_proxy"];

/// How to start a program; can be started again and again, in the same directory.
#[derive(Debug, Clone)]
pub struct Launch {
    label: String,
    executable: PathBuf,
    /// What comes before the executable on the command line.
    within: Vec<OsString>,
    args: Vec<OsString>,
    environment: Vec<(String, String)>,
    inherit_environment: bool,
    dir: Arc<TempDir>,
}

impl Launch {
    /// The server, `tuns`.
    pub fn server() -> Self {
        Self::of("tuns", binaries::tuns())
    }

    /// The client, `tunc`.
    pub fn client() -> Self {
        Self::of("tunc", binaries::tunc())
    }

    /// Any program, called `label` in reports.
    pub fn of(label: &str, executable: impl Into<PathBuf>) -> Self {
        Self {
            label: label.to_owned(),
            executable: executable.into(),
            within: Vec::new(),
            args: Vec::new(),
            environment: Vec::new(),
            inherit_environment: true,
            dir: Arc::new(tempfile::tempdir().expect("a temporary directory")),
        }
    }

    /// Gives it another name in reports, where several of a kind run.
    pub fn labelled(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds `-c FILE`, a file with this text.
    pub fn config(self, text: &str) -> Self {
        let name = format!("{}.toml", self.label.replace(' ', "-"));
        let path = self.write(&name, text);
        self.args([OsString::from("-c"), path.into()])
    }

    /// Starts it in a namespace of the network lab.
    pub fn within(mut self, space: &Space) -> Self {
        self.within = space.enter();
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts with no environment but what [`Launch::env`] sets.
    pub fn empty_environment(mut self) -> Self {
        self.inherit_environment = false;
        self
    }

    /// The directory it is started in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into that directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        fs::write(&path, text).expect("a file can be written");
        path
    }

    /// The command that starts it, its output piped.
    pub fn command(&self) -> Command {
        raise_open_files();
        let words = [self.within.clone(), vec![self.executable.clone().into()], self.args.clone()].concat();
        let mut command = Command::new(&words[0]);
        if !self.inherit_environment {
            command.env_clear();
        }
        // What the developer's shell holds must not reach the programs.
        for name in ["TUN_TOKEN", "TUN_SECRET", "RUST_LOG"].iter().chain(&PROXY_VARIABLES) {
            command.env_remove(name);
        }
        command
            .args(&words[1..])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it.
    pub fn start(&self) -> Program {
        let mut command = self.command();
        let started = Instant::now();
        let child =
            command.spawn().unwrap_or_else(|e| panic!("{} cannot start: {e}", self.executable.display()));
        Program::watch(&self.label, child, started, Arc::clone(&self.dir))
    }

    /// Starts it and waits until it has ended by itself.
    pub async fn run(&self) -> Finished {
        let program = self.start();
        let exit = program.exit().await;
        Finished { exit, output: program.log().text() }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// When.
    pub at: Instant,
    /// Its exit code, or none if a signal ended it.
    pub code: Option<i32>,
}

/// A program that ran to its end.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// All it said.
    pub output: String,
}

impl Finished {
    /// Its output, which must be one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.output).unwrap_or_else(|e| panic!("not JSON: {e}\n{}", self.output))
    }

    /// Checks the exit code and that each of these texts is somewhere in the output.
    #[track_caller]
    pub fn expect(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.exit.code, Some(code), "exit code, after the output:\n{}", self.output);
        for text in texts {
            assert!(self.output.contains(text), "{text:?} is not in the output:\n{}", self.output);
        }
    }
}

/// A running program. It is killed when this value goes, and its last lines are shown if a test fails.
#[derive(Debug)]
pub struct Program {
    log: Log,
    pid: Pid,
    started: Instant,
    child: Arc<Mutex<Child>>,
    exit: watch::Receiver<Option<Exit>>,
    reaper: Option<JoinHandle<()>>,
    _dir: Arc<TempDir>,
}

impl Program {
    fn watch(label: &str, mut child: Child, started: Instant, dir: Arc<TempDir>) -> Self {
        let log = Log::new(&format!("{label} [{}]", child.id()));
        let pid = Pid::from_child(&child);
        let readers = [
            child.stdout.take().map(|stdout| follow(stdout, log.clone())),
            child.stderr.take().map(|stderr| follow(stderr, log.clone())),
        ];
        let child = Arc::new(Mutex::new(child));
        let (exited, exit) = watch::channel(None);
        let reaper = thread::spawn({
            let (child, log) = (Arc::clone(&child), log.clone());
            move || {
                let status = reap(pid, &child);
                let at = Instant::now();
                for reader in readers.into_iter().flatten() {
                    reader.join().expect("a reader does not panic");
                }
                log.close();
                exited.send_replace(Some(Exit { at, code: status.code() }));
                debug_assert!(status.code().is_some() || status.signal().is_some());
            }
        });
        Self { log, pid, started, child, exit, reaper: Some(reaper), _dir: dir }
    }

    /// What it says.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Waits for the first line that holds `text`.
    pub async fn line(&self, text: &str) -> Line {
        self.log.line(text).await
    }

    /// Waits for the `count`-th line that holds `text`.
    pub async fn nth(&self, text: &str, count: usize) -> Line {
        self.log.nth(text, count).await
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.exit().await;
    }

    /// Asks it to stop, as `kill` and service managers do.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to stop, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Waits until it has ended.
    pub async fn exit(&self) -> Exit {
        let mut exit = self.exit.clone();
        let what = format!("the end of process {}", self.pid());
        let exit = soon(&what, exit.wait_for(Option::is_some)).await.expect("the reaper reports");
        exit.expect("it was waited for")
    }

    /// True until it has ended.
    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.pid()).unwrap_or_else(|| panic!("no such process\n{}", self.log.tail()))
    }

    /// The most resident memory that it ever had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        memory_kib(self.pid(), "VmHWM:").unwrap_or_else(|| panic!("no such process\n{}", self.log.tail()))
    }

    /// How many files, sockets among them, it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs").count()
    }

    fn signal(&self, signal: Signal) {
        // The lock keeps the reaper from freeing the process id in between.
        let mut child = self.child.lock().expect("no panic while held");
        if matches!(child.try_wait(), Ok(None)) {
            // It may have ended by itself just now, which is as good.
            let _ = kill_process(self.pid, signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(reaper) = self.reaper.take() {
            // A panic there is reported by its own thread.
            let _ = reaper.join();
        }
        if thread::panicking() {
            eprintln!("{}", self.log.tail());
        }
    }
}

/// The resident memory of a process in KiB, as the kernel accounts for it.
pub fn resident_kib(pid: i32) -> Option<u64> {
    memory_kib(pid, "VmRSS:")
}

fn memory_kib(pid: i32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// Allows this process, and those that it starts, as many open files as the system lets it.
pub fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is forbidden, the soft limit stays, and what needs more fails with a clear error.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Reads a stream line by line on a thread of its own, so that moments are right however busy the test is.
fn follow(stream: impl Read + Send + 'static, log: Log) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            log.push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

/// Waits for the end of a process before it takes the lock, so that signals can be sent meanwhile.
fn reap(pid: Pid, child: &Mutex<Child>) -> ExitStatus {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), ended).err() == Some(rustix::io::Errno::INTR) {}
    child.lock().expect("no panic while held").wait().expect("a child can be waited for")
}
