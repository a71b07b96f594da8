//! One create or read at a time: the reported outcome is the true one, or unknown.

use alluvium::internals::envelope;
use alluvium::internals::envelope::ObjectKind;
use alluvium::internals::store::{Key, Put};
use alluvium::{Applied, ErrorKind, RestoreFrom, Result, Seq};

use super::Rig;
use alluvium_testkit::sim::{Answer, Fate, Faults, Operation};

/// Creates one object under scripted fates; returns the outcome, the number of requests, and whether the object exists.
fn put_under(fates: Vec<(Operation, Fate)>) -> (Result<Put>, u64, bool) {
    let rig = Rig::new();
    let mut fates = fates;
    rig.faults(Faults::Scripted(Box::new(move |call| {
        let matches = fates.first().is_some_and(|(operation, _)| *operation == call.operation);
        matches.then(|| fates.remove(0).1)
    })));
    let store = rig.store(0);
    let outcome = rig.on(0, {
        let store = store.clone();
        async move {
            let put_id = store.draw_put_id();
            store
                .folder()
                .put_new(&Key::Manifest(Seq(1)), put_id, envelope::encode(ObjectKind::Manifest, put_id, b"body"))
                .await
        }
    });
    (outcome, store.requests().put, !rig.keys("manifest").is_empty())
}

#[test]
fn a01_a_create_that_fails_is_repeated_until_the_deadline() {
    let failing = || (Operation::Put, Fate::not_applied(5, Answer::ServerError));
    let (outcome, puts, exists) = put_under(vec![failing(), failing()]);
    assert_eq!((outcome.unwrap(), puts, exists), (Put::Created, 3, true));
    let (outcome, puts, exists) = put_under((0..9).map(|_| failing()).collect());
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.applied(), puts, exists), (ErrorKind::Unavailable, Applied::Unknown, 4, false));
}

#[test]
fn a02_a_create_whose_answer_is_lost_is_found_to_be_ours() {
    let (outcome, puts, exists) = put_under(vec![(Operation::Put, Fate::silent(Some(5)))]);
    assert_eq!((outcome.unwrap(), puts, exists), (Put::Created, 1, true));
}

#[test]
fn a03_applied_then_500_then_conflict_is_found_to_be_ours() {
    let fates = vec![
        (Operation::Put, Fate::applied_but(5, Answer::ServerError)),
        (Operation::Get, Fate::not_applied(5, Answer::ServerError)),
    ];
    let (outcome, puts, exists) = put_under(fates);
    assert_eq!((outcome.unwrap(), puts, exists), (Put::Created, 2, true));
    let (outcome, puts, _) = put_under(vec![(Operation::Put, Fate::applied_but(5, Answer::Conflict))]);
    assert_eq!((outcome.unwrap(), puts), (Put::Created, 1));
}

#[test]
fn a04_a_conflict_with_nothing_landed_is_repeated() {
    let (outcome, puts, exists) = put_under(vec![(Operation::Put, Fate::not_applied(5, Answer::Conflict))]);
    assert_eq!((outcome.unwrap(), puts, exists), (Put::Created, 2, true));
}

#[test]
fn a11_an_answer_that_ends_early_is_asked_for_again() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 1);
    rig.next_call(Operation::Get, "manifest", Fate { effects_ms: vec![1], answer: Some((1, Answer::Cut)) });
    assert_eq!(rig.claim(1, RestoreFrom::Newest).unwrap().epoch, 1);
}

#[test]
fn a20_a_refusal_after_doubt_proves_nothing() {
    let fates =
        vec![(Operation::Put, Fate::silent(Some(20_000))), (Operation::Put, Fate::not_applied(5, Answer::Denied))];
    let (outcome, _, _) = put_under(fates);
    assert_eq!(outcome.unwrap_err().applied(), Applied::Unknown, "the first request may still land");
}
