//! Requests that are lost, and answers: each of a publication and of a fence, once and for good.

use tokio::task::JoinSet;

use crate::*;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The broker never gets it.
    Request,
    /// It does, and its answer is lost.
    Answer,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    version: i16,
    api: ApiKey,
    loss: Loss,
    /// Whether the first one alone is lost.
    is_once: bool,
}

impl Case {
    fn lose(self, broker: &Broker) {
        let loss = self.loss;
        let lost = move |_: &_| match loss {
            Loss::Request => Control::Disconnect,
            Loss::Answer => Control::ApplyThen(Box::new(Control::Disconnect)),
        };
        if self.is_once {
            broker.on_once(self.api, lost);
        } else {
            broker.on(self.api, lost);
        }
    }
}

/// Runs `test` with each request of `apis`, at the same time: those that are lost for good wait for their timeout.
async fn each<F: Future<Output = ()> + Send + 'static>(apis: &[ApiKey], test: fn(Case) -> F) {
    let mut running = JoinSet::new();
    for api in apis {
        for version in VERSIONS {
            for (loss, is_once) in
                [(Loss::Request, true), (Loss::Request, false), (Loss::Answer, true), (Loss::Answer, false)]
            {
                if *api != ApiKey::AddPartitionsToTxn || version == 1 {
                    running.spawn(test(Case { version, api: *api, loss, is_once }));
                }
            }
        }
    }
    running.join_all().await;
}

#[tokio::test]
async fn in_a_publication() {
    let apis = [ApiKey::AddPartitionsToTxn, ApiKey::Produce, ApiKey::EndTxn];
    each(&apis, a_publication_with_a_loss_is_settled_by_the_fence).await;
}

async fn a_publication_with_a_loss_is_settled_by_the_fence(case: Case) {
    let broker = broker(case.version);
    let mut slot = fenced(hasty(&broker)).await;
    let before = broker.request_count(case.api);
    case.lose(&broker);
    let published = slot.publish(marker(FIRST, 1), &records(["a", "b"])).await;
    assert!(broker.request_count(case.api) > before, "{case:?}");
    broker.clear_hooks();
    let is_published = published.is_ok();
    assert_eq!(is_published, case.is_once, "{case:?}: {published:?}");
    let may_be_applied = published.err().is_some_and(|error| {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{case:?}: {}", error.chain());
        error.applied() == Applied::Unknown
    });
    let is_commit = case.api == ApiKey::EndTxn && !case.is_once;
    assert_eq!(may_be_applied, is_commit, "{case:?}: a commit without an answer is in doubt, and no other request");
    let found = slot.fence(FIRST).await.unwrap();
    let is_found = is_published || is_commit && case.loss == Loss::Answer;
    assert_eq!(found, is_found.then_some(marker(FIRST, 1)), "{case:?}");
    if !is_found {
        slot.publish(marker(FIRST, 1), &records(["a", "b"])).await.unwrap();
    }
    assert_eq!(broker.values(TOPIC), ["a", "b"], "{case:?}");
}

#[tokio::test]
async fn in_a_fence() {
    let apis = [
        ApiKey::Metadata,
        ApiKey::ListOffsets,
        ApiKey::Fetch,
        ApiKey::FindCoordinator,
        ApiKey::InitProducerId,
        ApiKey::AddPartitionsToTxn,
        ApiKey::Produce,
        ApiKey::EndTxn,
    ];
    each(&apis, a_fence_with_a_loss_can_be_repeated).await;
}

async fn a_fence_with_a_loss_can_be_repeated(case: Case) {
    let broker = broker(case.version);
    let mut older = fenced(settings(&broker)).await;
    older.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
    let before = broker.request_count(case.api);
    let mut newer = open(hasty(&broker)).await;
    case.lose(&broker);
    let fenced = newer.fence(SECOND).await;
    assert!(broker.request_count(case.api) > before, "{case:?}");
    broker.clear_hooks();
    match fenced {
        Ok(found) => assert_eq!(found, Some(marker(FIRST, 1)), "{case:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{case:?}: {}", error.chain()),
    }
    assert_eq!(newer.fence(SECOND).await.unwrap(), Some(marker(FIRST, 1)), "{case:?}");
    refused(older.publish(marker(FIRST, 2), &records(["b"])).await, ErrorKind::Fenced);
    newer.publish(marker(SECOND, 2), &records(["c"])).await.unwrap();
    assert_eq!(broker.values(TOPIC), ["a", "c"], "{case:?}");
}

#[tokio::test]
async fn in_the_creation_of_the_topic_of_slots() {
    for loss in [Loss::Request, Loss::Answer] {
        let broker = broker(2);
        let mut slot = open(hasty(&broker)).await;
        Case { version: 2, api: ApiKey::CreateTopics, loss, is_once: true }.lose(&broker);
        let fenced = slot.fence(FIRST).await;
        if let Err(error) = fenced {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        }
        assert_eq!(slot.fence(FIRST).await.unwrap(), None, "{loss:?}");
        slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
    }
}
