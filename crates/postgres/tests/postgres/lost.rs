//! Connections that are lost at COMMIT: the outcome is unknown until the slot is fenced again.

use super::server::Settings as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::*;

/// When a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The server never gets the publication's COMMIT.
    BeforeCommit,
    /// It does, and its answer is lost.
    AfterCommit,
}

/// Passes the first connection on to the server, and cuts it at its second COMMIT: that of the publication, after the fence's.
/// Later connections are passed on.
async fn proxy(server: &Server, cut: Cut) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let socket = server.folder().join(".s.PGSQL.5432");
    tokio::spawn(async move {
        let mut commits_left = Some(2);
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut upstream = UnixStream::connect(&socket).await.unwrap();
            let Some(mut left) = commits_left.take() else {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut upstream).await });
                continue;
            };
            let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            loop {
                tokio::select! {
                    count = client.read(&mut asked) => {
                        let sent = &asked[..count.unwrap()];
                        left -= u32::from(sent.windows(7).any(|part| part == b"COMMIT\0"));
                        if left == 0 && cut == Cut::BeforeCommit {
                            break;
                        }
                        upstream.write_all(sent).await.unwrap();
                        if left == 0 {
                            // The answer has come, so the commit has happened.
                            assert_ne!(upstream.read(&mut answered).await.unwrap(), 0);
                            break;
                        }
                    }
                    count = upstream.read(&mut answered) => {
                        client.write_all(&answered[..count.unwrap()]).await.unwrap();
                    }
                }
            }
        }
    });
    folder
}

#[tokio::test]
async fn a_lost_answer_to_commit_is_settled_by_the_fence() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE lost (n int)").await;
    for (cut, n) in [(Cut::BeforeCommit, 1), (Cut::AfterCommit, 2)] {
        let folder = proxy(server, cut).await;
        let settings = server.settings("lost");
        let settings =
            settings.with(|it| it.server = format!("host={} user=postgres dbname=postgres", folder.path().display()));
        let (mut slot, _) = fenced(settings).await;
        let error =
            refused(slot.publish(marker(FIRST, 1), &records([format!("{{\"n\":{n}}}")])).await, ErrorKind::Unavailable);
        assert_eq!(error.applied(), alluvium::Applied::Unknown, "{}", error.chain());
        let expected = (cut == Cut::AfterCommit).then_some(marker(FIRST, 1));
        assert_eq!(slot.fence(FIRST).await.unwrap(), expected, "{cut:?}");
    }
    assert_eq!(server.texts("SELECT n::text FROM lost").await, ["2"]);
}
