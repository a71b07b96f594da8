//! Standard output and standard error.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use alluvium::{Error, Result};

/// The progress bar, redrawn at the end of a terminal; other output is written above the bar.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Writes `text` to standard output.
pub(super) fn out(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Writes `document` to standard output.
pub(super) fn json(document: &serde_json::Value) -> Result<()> {
    out(&format!("{document:#}\n"))
}

/// Writes `bytes` to standard output.
pub(super) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|source| Error::unavailable("cannot write to standard output").with_source(source))
}

/// Writes `text` to standard error.
pub(super) fn note(text: &str) -> Result<()> {
    let written = Log.write_all(text.as_bytes());
    written.map_err(|source| Error::unavailable("cannot write to standard error").with_source(source))
}

/// Writes the error as the last line of standard error.
pub(super) fn error(error: &Error) {
    if let Some(bar) = shown_bar() {
        bar.finish_and_clear();
    }
    let line = error.chain().replace('\n', " ");
    // A closed standard error leaves nowhere to report this failure.
    let _closed = writeln!(io::stderr().lock(), "error[{}]: {line}", error.kind());
}

/// Returns a progress bar on standard error, hidden unless standard error is a terminal.
pub(super) fn bar(template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    let bar = match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
    bar
}

fn shown_bar() -> Option<ProgressBar> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|bar| !bar.is_finished())
}

/// Standard error, written above the bar if one is shown.
#[derive(Debug)]
pub(super) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match shown_bar() {
            Some(bar) => bar.suspend(|| io::stderr().lock().write(bytes)),
            None => io::stderr().lock().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}
