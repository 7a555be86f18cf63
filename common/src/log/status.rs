//! A line at the bottom of a terminal that is kept up to date while log lines scroll by above it.
//!
//! Both come from the log's thread, which takes the line away before it writes and draws it again afterwards: neither ever
//! lands in the middle of the other, and a terminal on hold stops nothing but that thread.

use std::io::{self, Write};

use tracing_appender::non_blocking::NonBlocking;

use super::is_unsafe;

/// What a message to the log's thread begins with if it is a status line. Log lines are free of control characters but
/// for colours, which begin otherwise.
const MARK: u8 = b'\r';

/// To the left margin, and erase to the end of the line (ECMA-48, EL).
const CLEAR: &[u8] = b"\r\x1b[K";

/// Columns of a terminal that does not tell.
const USUAL_WIDTH: usize = 80;

/// Draws the line; clones draw the same one.
#[derive(Clone, Debug)]
pub struct StatusLine {
    writer: NonBlocking,
}

impl StatusLine {
    pub(super) fn new(writer: NonBlocking) -> Self {
        Self { writer }
    }

    /// Draws `text`, as much of it as there is room for, in the place of what was drawn before. Returns at once; when
    /// very many log lines wait to be written, nothing is drawn.
    pub fn show(&self, text: &str) {
        let mut message = vec![MARK];
        let plain = text.chars().map(|c| if is_unsafe(c) { '?' } else { c });
        message.extend(plain.collect::<String>().into_bytes());
        // It tells of no failures, since nobody waits for the thread.
        let _ = self.writer.clone().write_all(&message);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.show("");
    }
}

/// Writes log lines to `log` and status lines to `terminal`.
pub(super) struct WithStatus<L, T> {
    log: L,
    terminal: T,
    /// The log goes to a terminal as well, which can only be the same one.
    shared: bool,
    /// Columns of the terminal, if it tells.
    width: fn(&T) -> Option<usize>,
    /// What is drawn now.
    line: String,
}

impl<L: Write, T: Write> WithStatus<L, T> {
    pub(super) fn new(log: L, terminal: T, shared: bool, width: fn(&T) -> Option<usize>) -> Self {
        Self { log, terminal, shared, width, line: String::new() }
    }

    fn draw(&mut self) {
        let width = (self.width)(&self.terminal).filter(|width| *width > 0).unwrap_or(USUAL_WIDTH);
        // The last column stays free: some terminals go on to the next line when it is written.
        let text: String = self.line.chars().take(width - 1).collect();
        self.put(&[CLEAR, text.as_bytes()].concat());
    }

    /// A terminal that is gone is no reason to lose log lines.
    fn put(&mut self, bytes: &[u8]) {
        let _ = self.terminal.write_all(bytes).and_then(|()| self.terminal.flush());
    }
}

impl<L: Write, T: Write> Write for WithStatus<L, T> {
    /// Each call brings one whole message.
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        if let Some((&MARK, text)) = message.split_first() {
            let text = String::from_utf8_lossy(text);
            if self.line != text {
                self.line = text.into_owned();
                self.draw();
            }
            return Ok(message.len());
        }
        let covered = self.shared && !self.line.is_empty();
        if covered {
            self.put(CLEAR);
        }
        let written = self.log.write_all(message).and_then(|()| self.log.flush());
        if covered {
            self.draw();
        }
        written.map(|()| message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.log.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A terminal that both write to.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(shared: bool, width: fn(&Screen) -> Option<usize>, messages: &[&str]) -> String {
        let screen = Screen::default();
        let mut writer = WithStatus::new(screen.clone(), screen.clone(), shared, width);
        for message in messages {
            writer.write_all(message.as_bytes()).unwrap();
        }
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap().replace("\r\x1b[K", "<")
    }

    #[test]
    fn log_lines_appear_above_the_status_line() {
        let messages = ["one\n", "\rstatus", "two\n", "\rstatus", "\rother", "\r", "three\n"];
        assert_eq!(written(true, |_| None, &messages), "one\n<status<two\n<status<other<three\n");
    }

    #[test]
    fn a_log_elsewhere_does_not_disturb_the_status_line() {
        assert_eq!(written(false, |_| None, &["\rstatus", "two\n"]), "<statustwo\n");
    }

    #[test]
    fn a_status_line_never_wraps() {
        assert_eq!(written(true, |_| Some(5), &["\rstätus"]), "<stät");
        assert_eq!(written(true, |_| Some(0), &["\rstatus"]), "<status");
    }
}
