//! The publishing process is killed.

use std::io::{BufRead as _, Write as _};
use std::process::{Child, Command, Stdio};

use crate::*;

/// Requests with records after which the process is killed; the first one is the fence's.
const PRODUCED: [usize; 6] = [1, 2, 3, 4, 10, 11];

#[tokio::test]
async fn each_record_is_there_once_whenever_the_process_is_killed() {
    for (at, produced) in PRODUCED.into_iter().enumerate() {
        let broker = broker(VERSIONS[at % 2]);
        let mut child = publisher(&broker.address());
        while broker.request_count(ApiKey::Produce) < produced {
            assert!(child.try_wait().unwrap().is_none(), "the process has ended");
            tokio::task::yield_now().await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut slot = open(settings(&broker)).await;
        let found = slot.fence(SECOND).await.unwrap();
        let published = found.map_or(0, |marker| marker.epoch.0);
        slot.publish(marker(SECOND, published + 1), &records(["end"])).await.unwrap();
        let expected: Vec<_> = (1..=published).map(|epoch| epoch.to_string()).chain(["end".to_owned()]).collect();
        assert_eq!(broker.values(TOPIC), expected, "{found:?}");
    }
}

/// Returns a process that runs the test below.
fn publisher(address: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "kills::publishes_until_it_is_killed"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{address}").unwrap();
    child
}

#[tokio::test]
#[ignore = "a process of the test above; reads a broker's address"]
async fn publishes_until_it_is_killed() {
    let address = std::io::stdin().lock().lines().next().unwrap().unwrap();
    let mut slot = fenced(settings_at(&address)).await;
    for epoch in 1.. {
        let record = KafkaRecord::new("key", epoch.to_string()).to_bytes();
        slot.publish(marker(FIRST, epoch), &[record].iter().collect()).await.unwrap();
    }
}
