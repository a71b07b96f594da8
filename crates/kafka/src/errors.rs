//! What an error of the client means to the caller. All that depends on its texts is here.

use alluvium::{Error, ErrorKind};
use krafka::KrafkaError;
use krafka::error::ErrorCode;

/// Kinds by the name of Kafka's error code. Others end the sink, rather than being tried for ever, unless Kafka says that trying
/// again may help.
const KINDS: &[(&str, ErrorKind)] = &[
    ("ClusterAuthorizationFailed", ErrorKind::Denied),
    ("GroupAuthorizationFailed", ErrorKind::Denied),
    ("IllegalSaslState", ErrorKind::Denied),
    ("SaslAuthenticationFailed", ErrorKind::Denied),
    ("TopicAuthorizationFailed", ErrorKind::Denied),
    ("TransactionalIdAuthorizationFailed", ErrorKind::Denied),
    ("UnsupportedSaslMechanism", ErrorKind::Denied),
    ("InvalidRecord", ErrorKind::Input),
    ("InvalidTimestamp", ErrorKind::Input),
    ("MessageTooLarge", ErrorKind::Limit),
    ("RecordListTooLarge", ErrorKind::Limit),
    ("UnknownTopicId", ErrorKind::NotFound),
    ("UnknownTopicOrPartition", ErrorKind::NotFound),
    // The producer's id or its transaction is gone: the slot is fenced again.
    ("DuplicateSequenceNumber", ErrorKind::Unavailable),
    ("InvalidProducerEpoch", ErrorKind::Unavailable),
    ("InvalidProducerIdMapping", ErrorKind::Unavailable),
    ("InvalidTxnState", ErrorKind::Unavailable),
    ("OutOfOrderSequenceNumber", ErrorKind::Unavailable),
    ("ProducerFenced", ErrorKind::Unavailable),
    ("TransactionAbortable", ErrorKind::Unavailable),
    ("TransactionCoordinatorFenced", ErrorKind::Unavailable),
    ("UnknownProducerId", ErrorKind::Unavailable),
    // Of a broker, not of the request.
    ("BrokerNotAvailable", ErrorKind::Unavailable),
    ("KafkaStorageException", ErrorKind::Unavailable),
    ("UnknownServerError", ErrorKind::Unavailable),
];

/// Returns the error for a failed call.
pub(crate) fn failed(what: &str, error: &KrafkaError) -> Error {
    Error::new(kind(error), what).with_source(error.to_string())
}

/// Returns the error's kind.
pub(crate) fn kind(error: &KrafkaError) -> ErrorKind {
    match error {
        KrafkaError::Broker { code, .. } if code.is_retriable() => {
            named(&format!("{code:?}")).unwrap_or(ErrorKind::Unavailable)
        }
        KrafkaError::Broker { code, .. } => named(&format!("{code:?}")).unwrap_or(ErrorKind::Config),
        KrafkaError::TransactionAbortable { message } | KrafkaError::DeliveryTimeout { message, .. } => {
            code_in(message).and_then(named).unwrap_or(ErrorKind::Unavailable)
        }
        KrafkaError::Auth { .. } => ErrorKind::Denied,
        KrafkaError::Config { message } if message.contains("max_request_size") => ErrorKind::Limit,
        KrafkaError::Config { .. } | KrafkaError::Compression { .. } => ErrorKind::Config,
        KrafkaError::UnknownTopic { .. } => ErrorKind::NotFound,
        KrafkaError::Protocol { kind, .. } if !kind.is_retriable() => ErrorKind::Config,
        _ => ErrorKind::Unavailable,
    }
}

fn named(code: &str) -> Option<ErrorKind> {
    KINDS.iter().find(|(name, _)| *name == code).map(|(_, kind)| *kind)
}

/// Returns the name of the code in the text of a failed send: `produce to topic-0 failed with InvalidProducerEpoch`, or the last
/// error before a timeout. Names of topics have no spaces, so they cannot be taken for one.
fn code_in(message: &str) -> Option<&str> {
    let found = ["failed with ", "broker error: "]
        .iter()
        .filter_map(|before| message.rfind(before).map(|at| at + before.len()));
    let rest = message.get(found.max()?..)?;
    rest.split(|c: char| !c.is_ascii_alphanumeric()).next()
}

/// Returns whether the producer has lost its transactional id or its transaction: to another producer, or to the coordinator's
/// timeout. Kafka does not tell them apart. Under transaction version 2 only the text says so; and once a producer has failed
/// in the background, not even that.
pub(crate) fn is_fenced(error: &KrafkaError) -> bool {
    let of = |code: &str| matches!(code, "ProducerFenced" | "InvalidProducerEpoch" | "InvalidTxnState");
    match error {
        KrafkaError::Fenced { .. } | KrafkaError::IllegalState { .. } => true,
        KrafkaError::Broker { code, .. } => of(&format!("{code:?}")),
        KrafkaError::TransactionAbortable { message } => {
            message.contains("(fenced: ") || code_in(message).is_some_and(of)
        }
        _ => false,
    }
}

/// Returns whether a commit failed because a record before it had: the coordinator was not asked. Any of its answers may be to a
/// second try, of which the first took effect.
pub(crate) fn is_not_asked(error: &KrafkaError) -> bool {
    let refused = "cannot commit: a send in this transaction failed";
    matches!(error, KrafkaError::TransactionAbortable { message } if message.starts_with(refused))
}

/// Returns whether Kafka answered with `code`.
pub(crate) fn has_code(error: &KrafkaError, code: ErrorCode) -> bool {
    matches!(error, KrafkaError::Broker { code: found, .. } if *found == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abortable(message: &str) -> KrafkaError {
        KrafkaError::TransactionAbortable { message: message.to_owned() }
    }

    #[test]
    fn codes_have_their_kinds() {
        let expected = [
            (ErrorCode::TopicAuthorizationFailed, ErrorKind::Denied),
            (ErrorCode::TransactionalIdAuthorizationFailed, ErrorKind::Denied),
            (ErrorCode::UnknownTopicOrPartition, ErrorKind::NotFound),
            (ErrorCode::MessageTooLarge, ErrorKind::Limit),
            (ErrorCode::InvalidTimestamp, ErrorKind::Input),
            (ErrorCode::ConcurrentTransactions, ErrorKind::Unavailable),
            (ErrorCode::NotEnoughReplicas, ErrorKind::Unavailable),
            (ErrorCode::ProducerFenced, ErrorKind::Unavailable),
            (ErrorCode::UnknownServerError, ErrorKind::Unavailable),
            (ErrorCode::PolicyViolation, ErrorKind::Config),
        ];
        for (code, expected) in expected {
            assert_eq!(kind(&KrafkaError::broker(code, "text")), expected, "{code:?}");
            let text = abortable(&format!("a send failed (produce to t-0 failed with {code:?}); abort it"));
            if expected != ErrorKind::Config {
                assert_eq!(kind(&text), expected, "{code:?}");
            }
        }
    }

    #[test]
    fn codes_are_found_in_texts() {
        for code in ["ProducerFenced", "InvalidProducerEpoch", "InvalidTxnState"] {
            assert!(is_fenced(&abortable(&format!("produce to t-0 failed with {code}"))));
        }
        let nested =
            "cannot commit: a send in this transaction failed (fenced: InvalidProducerEpoch: another producer)";
        assert!(is_fenced(&abortable(nested)) && is_not_asked(&abortable(nested)));
        assert!(!is_not_asked(&abortable("produce to t-0 failed with InvalidTxnState")));
        assert!(!is_fenced(&abortable("produce to InvalidProducerEpoch-0 failed with MessageTooLarge")));
        let late = "delivery timed out (possibly written: false): t-0; last error: broker error: \
                    UnknownTopicOrPartition - produce to t-0 failed";
        assert_eq!(kind(&abortable(late)), ErrorKind::NotFound);
        assert_eq!(kind(&abortable("no code at all")), ErrorKind::Unavailable);
    }

    /// A name that is no code would never match.
    #[test]
    fn names_are_codes_of_kafka() {
        let known: Vec<_> = (-1..200).map(|code| format!("{:?}", ErrorCode::from_i16(code))).collect();
        for (name, _) in KINDS {
            assert!(known.iter().any(|known| known == name), "{name}");
        }
    }
}
