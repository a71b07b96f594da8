//! The example of a windowed join: crashed again and again, at another parallelism each time, it publishes what a join in
//! memory gives, each row once.

#[path = "../examples/windowed_join.rs"]
#[allow(
    clippy::allow_attributes,
    dead_code,
    unreachable_pub,
    unfulfilled_lint_expectations,
    reason = "an example, used as a module"
)]
mod example;

use std::collections::BTreeMap;

use alluvium::{ErrorKind, Result};
use example::{Options, published, run};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

const EVENTS: u64 = 200_000;
const WINDOW_MS: u64 = 10_000;

/// Persons and the auctions that they open, per window.
fn expected() -> Vec<String> {
    let config = NexmarkConfig { base_time: 1_436_918_400_000, ..NexmarkConfig::default() };
    let (mut persons, mut auctions) = (BTreeMap::new(), Vec::new());
    for event in EventGenerator::new(config).take(usize::try_from(EVENTS).unwrap()) {
        let window = |time: u64| time - time % WINDOW_MS;
        match event {
            Event::Person(person) => drop(persons.insert((window(person.date_time), person.id), person.name)),
            Event::Auction(auction) => auctions.push((window(auction.date_time), auction)),
            Event::Bid(_) => {}
        }
    }
    let row = |(window, auction): &(u64, nexmark::event::Auction)| {
        let name = persons.get(&(*window, auction.seller))?;
        Some(format!("{window},{name},{},{}", auction.id, auction.item_name))
    };
    let mut rows: Vec<_> = auctions.iter().filter_map(row).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_do_not_show_in_the_output() -> Result<()> {
    let expected = expected();
    assert!(expected.len() > 200, "only {} rows", expected.len());
    let folder = tempfile::tempdir().unwrap();
    let options =
        |parallelism, crash_at| Options { folder: folder.path().to_owned(), events: EVENTS, parallelism, crash_at };
    for (parallelism, crash_at) in [(1, 1_000), (2, 31_999), (5, 32_001), (3, 90_500), (8, 150_000)] {
        let crashed = run(options(parallelism, Some(crash_at))).await.unwrap_err();
        assert_eq!(crashed.kind(), ErrorKind::Stopped);
    }
    run(options(2, None)).await?;
    assert!(published(folder.path())? == expected, "other rows than a join in memory gives");
    Ok(())
}
