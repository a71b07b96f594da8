//! The answers, computed in one thread, without any of the crate.

use std::collections::{BTreeMap, BTreeSet};

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

/// Returns the rows of a query's answer, sorted.
pub(crate) fn answer(query: u32, events: usize) -> Vec<String> {
    let config = NexmarkConfig { base_time: 1_436_918_400_000, ..NexmarkConfig::default() };
    let events = EventGenerator::new(config).take(events);
    let mut rows = match query {
        3 => local_items(events),
        5 => hot_items(events),
        _ => new_sellers(events),
    };
    rows.sort_unstable();
    rows
}

fn local_items(events: impl Iterator<Item = Event>) -> Vec<String> {
    let (mut persons, mut auctions) = (BTreeMap::new(), Vec::new());
    for event in events {
        match event {
            Event::Person(person) => drop(persons.insert(person.id, (person.name, person.city, person.state))),
            Event::Auction(auction) if auction.category == 10 => auctions.push((auction.seller, auction.id)),
            _ => {}
        }
    }
    let row = |(seller, auction)| {
        let (name, city, state) = persons.get(&seller)?;
        let is_local = matches!(state.to_lowercase().as_str(), "or" | "id" | "ca");
        is_local.then(|| format!("{name},{city},{state},{auction}"))
    };
    auctions.into_iter().filter_map(row).collect()
}

fn hot_items(events: impl Iterator<Item = Event>) -> Vec<String> {
    let mut windows: BTreeMap<u64, BTreeMap<usize, u64>> = BTreeMap::new();
    for event in events {
        let Event::Bid(bid) = event else { continue };
        let mut end = bid.date_time / 2_000 * 2_000 + 2_000;
        while end <= bid.date_time + 10_000 {
            *windows.entry(end).or_default().entry(bid.auction).or_default() += 1;
            end += 2_000;
        }
    }
    let mut rows = Vec::new();
    for (end, bids) in windows {
        let most = *bids.values().max().unwrap();
        rows.extend(
            bids.iter().filter(|(_, bids)| **bids == most).map(|(auction, bids)| format!("{end},{auction},{bids}")),
        );
    }
    rows
}

fn new_sellers(events: impl Iterator<Item = Event>) -> Vec<String> {
    let (mut registered, mut sellers) = (BTreeMap::new(), BTreeSet::new());
    let window = |millis: u64| millis / 10_000 * 10_000;
    for event in events {
        match event {
            Event::Person(person) => drop(registered.insert((person.id, window(person.date_time)), person.name)),
            Event::Auction(auction) => drop(sellers.insert((auction.seller, window(auction.date_time)))),
            Event::Bid(_) => {}
        }
    }
    let row = |((person, start), name): (&(usize, u64), &String)| format!("{person},{name},{start}");
    registered.iter().filter(|(key, _)| sellers.contains(key)).map(row).collect()
}
