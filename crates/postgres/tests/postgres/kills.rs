//! The server dies.

use super::server::Settings as _;
use std::future::poll_fn;
use std::task::Poll;

use crate::*;

/// Polls at which the server dies, from before the first statement to after the commit.
const KILLS: [u32; 8] = [0, 1, 2, 3, 4, 6, 8, 12];

#[tokio::test]
async fn each_row_is_there_once_whenever_the_server_dies() {
    let Some(mut server) = Server::start(&["-h", ""]) else { return };
    server.run("CREATE TABLE killed (n int)").await;
    let (mut slot, _) = fenced(server.settings("killed")).await;
    let mut expected = Vec::new();
    for (epoch, polls) in (1..).zip(KILLS) {
        let rows: Vec<_> = (0..3).map(|at| epoch * 10 + at).collect();
        expected.extend(rows.iter().map(ToString::to_string));
        let published = records(rows.iter().map(|n| format!("{{\"n\":{n}}}")));
        let mut publishing = slot.publish(marker(FIRST, epoch), &published);
        let mut left = polls;
        let early = poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            publishing.as_mut().poll(context).map(Some)
        });
        let early = early.await;
        server.kill();
        let outcome = match early {
            Some(outcome) => outcome,
            None => publishing.as_mut().await,
        };
        drop(publishing);
        if let Err(error) = &outcome {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        }
        refused(slot.fence(FIRST).await, ErrorKind::Unavailable);
        server.restart();
        let found = slot.fence(FIRST).await.unwrap();
        let is_published = found == Some(marker(FIRST, epoch));
        assert!(is_published || outcome.is_err(), "an acknowledged publication is lost after {polls} polls: {found:?}");
        if !is_published {
            slot.publish(marker(FIRST, epoch), &published).await.unwrap();
        }
    }
    assert_eq!(server.texts("SELECT n::text FROM killed ORDER BY n").await, expected);
}
