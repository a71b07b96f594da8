//! Standard output and standard error.

use std::io::{self, Write as _};

use alluvium::{Error, Result};

/// Writes `text` to standard output.
pub(super) fn out(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Writes `document` to standard output, as the one thing there.
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
    let written = io::stderr().lock().write_all(text.as_bytes());
    written.map_err(|source| Error::unavailable("cannot write to standard error").with_source(source))
}

/// Writes the error as the last line of standard error.
pub(super) fn error(error: &Error) {
    let line = error.chain().replace('\n', " ");
    // Nowhere is left to say that standard error is closed.
    let _closed = writeln!(io::stderr().lock(), "error[{}]: {line}", error.kind());
}
