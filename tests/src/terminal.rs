//! A terminal of its own for a program that looks for one.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::watch;

use crate::patience::soon;
use crate::program::Launch;

/// Columns of the terminal: more than any line that a test looks for.
const COLUMNS: u16 = 240;

/// A program whose standard output and standard error are one terminal.
#[derive(Debug)]
pub struct OnTerminal {
    child: Child,
    screen: watch::Receiver<String>,
}

impl OnTerminal {
    /// Starts it.
    pub fn start(launch: &Launch) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal can be had");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("the terminal can be opened");
        let size = Winsize { ws_row: 50, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("the terminal takes a size");
        let path = ptsname(&master, Vec::new()).expect("the terminal has a name");
        let path = path.into_string().expect("the name is text");
        let slave = || -> Stdio {
            OpenOptions::new().write(true).open(&path).expect("the terminal can be opened").into()
        };
        let mut command = launch.command();
        command.env("TERM", "xterm").stdout(slave()).stderr(slave());
        let child = command.spawn().expect("the program can be started");
        // Its ends of the terminal go with the command, so that reading ends with the program.
        drop(command);
        Self { child, screen: follow(master) }
    }

    /// Waits until all that was written so far `satisfies`, and returns it.
    pub async fn written(&mut self, what: &str, satisfies: impl Fn(&str) -> bool) -> String {
        let waited = soon(what, self.screen.wait_for(|screen| satisfies(screen))).await;
        waited.map(|screen| screen.clone()).unwrap_or_else(|_| panic!("the program ended without {what}"))
    }

    /// Asks the program to stop, as Ctrl-C does, and returns all that it wrote.
    pub async fn interrupt(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("the program runs");
        while soon("the end of the program", self.screen.changed()).await.is_ok() {}
        self.screen.borrow().clone()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the terminal\n{}", self.screen.borrow().escape_debug());
        }
    }
}

/// Reads a terminal to its end on a thread of its own, which the end of the program ends.
fn follow(master: OwnedFd) -> watch::Receiver<String> {
    let (sender, screen) = watch::channel(String::new());
    thread::spawn(move || {
        let mut master = File::from(master);
        let mut buffer = [0; 4096];
        // Linux reports the end as an error.
        while let Ok(n @ 1..) = master.read(&mut buffer) {
            sender.send_modify(|screen| screen.push_str(&String::from_utf8_lossy(&buffer[..n])));
        }
    });
    screen
}
