//! The steps of a command, as people see them: what is being done, how long it took, what went wrong.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Prints one line per step.
pub struct Steps {
    start: Instant,
    terminal: bool,
}

impl Steps {
    pub fn new() -> Self {
        Self { start: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    /// Tells of a finished step.
    pub fn done(&self, what: &str, since: Instant) {
        let took = since.elapsed();
        let mark = if self.terminal { "\x1b[32m✓\x1b[0m" } else { "ok" };
        let _ = writeln!(std::io::stderr(), "  {mark} {what} {}", dim(self.terminal, &short(took)));
    }

    pub fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    pub fn total(&self) -> Duration {
        self.start.elapsed()
    }

    /// A bar for a step whose length is known, in bytes; invisible where there is no terminal.
    pub fn bar(&self, what: &str, bytes: u64) -> ProgressBar {
        if !self.terminal {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(bytes).with_message(what.to_owned());
        let style = ProgressStyle::with_template("  {msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar
    }
}

fn dim(terminal: bool, text: &str) -> String {
    if terminal { format!("\x1b[2m{text}\x1b[0m") } else { format!("({text})") }
}

/// A duration for people: `3 ms`, `1.2 s`.
pub fn short(d: Duration) -> String {
    if d < Duration::from_secs(1) {
        format!("{} ms", d.as_millis())
    } else {
        format!("{:.1} s", d.as_secs_f64())
    }
}
