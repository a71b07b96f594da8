//! What an error of the server or of its connection means to the caller.

use std::io;

use alluvium::{Error, ErrorKind};
use tokio_postgres::error::{DbError, Severity};

/// Kinds by SQLSTATE, complete or by its class: the first two characters. A complete one comes before its class.
const KINDS: &[(&str, ErrorKind)] = &[
    ("08", ErrorKind::Unavailable),    // connection
    ("21", ErrorKind::Config), // two rows of one statement have the same key by the index, but differ by the column
    ("22", ErrorKind::Input),  // data
    ("23", ErrorKind::Input),  // constraint
    ("25", ErrorKind::Unavailable), // transaction state: ended by a timeout, or a standby that takes no writes
    ("28", ErrorKind::Denied), // authentication
    ("3D", ErrorKind::NotFound), // database
    ("3F", ErrorKind::NotFound), // schema
    ("40", ErrorKind::Unavailable), // serialization failure, deadlock
    ("42501", ErrorKind::Denied), // privilege, row security
    ("42P01", ErrorKind::NotFound), // table
    ("42", ErrorKind::Config), // column, type or index
    ("44", ErrorKind::Input),  // check option of a view
    ("53", ErrorKind::Unavailable), // too many connections, disk full, out of memory
    ("54", ErrorKind::Limit),  // a row larger than a page, an index or the stack can hold
    ("55P03", ErrorKind::Unavailable), // lock timeout
    ("57", ErrorKind::Unavailable), // statement timeout, shutdown, start-up
    ("58", ErrorKind::Unavailable), // I/O of the server
    ("P0", ErrorKind::Input),  // raised by a trigger
    ("XX", ErrorKind::Unavailable), // internal
];

/// Returns the kind of a SQLSTATE. One that is not listed ends the sink, rather than being tried for ever.
pub(crate) fn kind(code: &str) -> ErrorKind {
    KINDS.iter().find(|(prefix, _)| code.starts_with(prefix)).map_or(ErrorKind::Config, |(_, kind)| *kind)
}

/// Returns the server's refusal of a row, if `error` is one: such an error repeats values of the row, so it must not be shown.
pub(crate) fn refusal(error: &tokio_postgres::Error) -> Option<&DbError> {
    error.as_db_error().filter(|error| matches!(kind(error.code().code()), ErrorKind::Input | ErrorKind::Limit))
}

/// Returns the error for a failed connection.
pub(crate) fn connecting(error: &tokio_postgres::Error) -> Error {
    let (kind, text) = match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(answer), _) => return answered(answer),
        (None, _) if error.is_closed() => (ErrorKind::Unavailable, error.to_string()),
        (None, Some(cause)) => {
            let is_io = cause.downcast_ref::<io::Error>().is_some_and(|error| !is_final(error));
            (if is_io { ErrorKind::Unavailable } else { ErrorKind::Config }, format!("{error}: {cause}"))
        }
        (None, None) => (ErrorKind::Unavailable, error.to_string()),
    };
    Error::new(kind, "cannot connect to the server").with_source(text)
}

/// Returns whether connecting again does not help: a certificate that is not trusted, an address that is none.
fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

/// Returns the error for a failed statement. It has no values of rows.
pub(crate) fn failed(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(answer) => answered(answer),
        None => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
            Error::unavailable("connection to the server is lost").with_source(text)
        }
    }
}

/// Returns whether the transaction was certainly rolled back by a COMMIT that failed with `error`.
pub(crate) fn is_rolled_back(error: &tokio_postgres::Error) -> bool {
    // A session that ends, with FATAL, may have committed before.
    error.as_db_error().is_some_and(|answer| answer.parsed_severity() == Some(Severity::Error))
}

fn answered(answer: &DbError) -> Error {
    let code = answer.code().code();
    let kind = kind(code);
    let error = Error::new(kind, "the server refused").with("sqlstate", code);
    match kind {
        ErrorKind::Input | ErrorKind::Limit => error,
        _ => error.with_source(answer.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_their_kinds() {
        use ErrorKind::{Config, Denied, Input, Limit, NotFound, Unavailable};
        let expected = [
            ("08006", Unavailable),
            ("22P02", Input),
            ("23505", Input),
            ("25P03", Unavailable),
            ("25006", Unavailable),
            ("28P01", Denied),
            ("3D000", NotFound),
            ("3F000", NotFound),
            ("40001", Unavailable),
            ("40P01", Unavailable),
            ("42501", Denied),
            ("42P01", NotFound),
            ("42703", Config),
            ("42P10", Config),
            ("53300", Unavailable),
            ("54000", Limit),
            ("55P03", Unavailable),
            ("55000", Config),
            ("57014", Unavailable),
            ("57P01", Unavailable),
            ("57P03", Unavailable),
            ("P0001", Input),
            ("99999", Config),
        ];
        for (code, expected) in expected {
            assert_eq!(kind(code), expected, "{code}");
        }
    }

    #[test]
    fn a_complete_state_is_not_hidden_by_its_class() {
        for (at, (prefix, _)) in KINDS.iter().enumerate() {
            let hidden = KINDS[..at].iter().any(|(earlier, _)| prefix.starts_with(earlier));
            assert!(!hidden, "{prefix}");
        }
    }
}
