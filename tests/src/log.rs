//! What a program has said so far, and waiting for what it says next.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::patience::patience;

/// One line of a program's output, with the moment it was read.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it arrived here.
    pub at: Instant,
    /// The line, without its end.
    pub text: String,
}

/// The lines of a program, standard output and standard error in the order of their arrival. Clones share them.
#[derive(Debug, Clone)]
pub struct Log {
    label: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lines: Mutex<Vec<Line>>,
    /// True until nothing more can come; every change of the lines is announced here.
    open: watch::Sender<bool>,
}

impl Log {
    /// An empty log of the program called `label`.
    pub fn new(label: &str) -> Self {
        let shared = Shared { lines: Mutex::default(), open: watch::Sender::new(true) };
        Self { label: label.to_owned(), shared: Arc::new(shared) }
    }

    /// Adds a line.
    pub fn push(&self, text: String) {
        self.shared.lines.lock().expect("no panic while held").push(Line { at: Instant::now(), text });
        self.shared.open.send_modify(|_| ());
    }

    /// Says that nothing more will come, so that nobody waits in vain.
    pub fn close(&self) {
        self.shared.open.send_replace(false);
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lines.lock().expect("no panic while held").clone()
    }

    /// All lines so far, in one text.
    pub fn text(&self) -> String {
        self.lines().into_iter().map(|line| line.text + "\n").collect()
    }

    /// How many lines hold `text`.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.text.contains(text)).count()
    }

    /// Waits for the first line that holds `text`.
    pub async fn line(&self, text: &str) -> Line {
        self.nth(text, 1).await
    }

    /// Waits for the `count`-th line that holds `text`, counted from the start of the program.
    pub async fn nth(&self, text: &str, count: usize) -> Line {
        self.nth_where(text, count, |line| line.contains(text)).await
    }

    /// Waits for the `count`-th line that `matches`; `what` names it when it does not come. The log itself is shown
    /// by the program that it belongs to, when the failing test lets go of it.
    pub async fn nth_where(&self, what: &str, count: usize, matches: impl Fn(&str) -> bool) -> Line {
        self.nth_within(patience(), what, count, matches).await
    }

    /// The same with a limit of its own.
    pub async fn nth_within(
        &self,
        limit: Duration,
        what: &str,
        count: usize,
        matches: impl Fn(&str) -> bool,
    ) -> Line {
        let said = self.find(limit, count, matches).await;
        said.unwrap_or_else(|reason| panic!("{} {reason}: {what:?} ({count})", self.label))
    }

    /// Waits for the first line that holds `text`; `None` if it does not come.
    pub async fn comes_within(&self, limit: Duration, text: &str) -> Option<Line> {
        self.find(limit, 1, |line| line.contains(text)).await.ok()
    }

    /// Or why it did not come, in words that follow the program's name.
    async fn find(
        &self,
        limit: Duration,
        count: usize,
        matches: impl Fn(&str) -> bool,
    ) -> Result<Line, &'static str> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut changes = self.shared.open.subscribe();
        loop {
            let open = *changes.borrow_and_update();
            if let Some(line) = self.lines().into_iter().filter(|line| matches(&line.text)).nth(count - 1) {
                return Ok(line);
            }
            if !open {
                return Err("ended without the line");
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Err("did not say in time");
            }
        }
    }

    /// The last lines, for a report.
    pub fn tail(&self) -> String {
        const SHOWN: usize = 60;
        let lines = self.lines();
        let skipped = lines.len().saturating_sub(SHOWN);
        let mut tail =
            format!("--- {}, the last {} of {} lines\n", self.label, lines.len() - skipped, lines.len());
        for line in &lines[skipped..] {
            tail.push_str(&line.text);
            tail.push('\n');
        }
        tail
    }
}
