//! The log that a job reads: the seed determines record `i`, so that engines and model agree without sharing it.

use crate::points::SECRET;
use alluvium_testkit::sim::Rng;

/// Namespaces, from 0; 0 is the empty one.
pub(crate) const NAMESPACES: u8 = 3;

/// Timers are at multiples of this, so that some coincide.
const TIMER_GRID_MS: i64 = 50;

/// A record's operation; its name begins with the kind of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    ValuePut(u64),
    ValueAdd(u64),
    ValueTake,
    ValueClear,
    TextPut(usize),
    TextClear,
    ListAdd(u32),
    ListReplace(u32),
    ListClear,
    MapPut(u16, u64),
    MapRemove(u16),
    MapRetainOdd,
    MapClear,
    OrderedPut(i64),
    OrderedRemove(i64),
    OrderedClear,
    OrderedClearKey,
    /// Clears the namespace of all keys.
    OrderedClearNamespace,
    SumAdd(u64),
    SumClear,
    MeanAdd(u64),
    MeanClear,
    FadingPut(u64),
    FadingListAdd(u32),
    FadingMapPut(u16, u64),
    /// A read renews the row's life.
    FadingMapRead(u16),
    FadingSumAdd(u64),
    /// Puts the record's number; the row expires in processing time.
    Seen,
    TimerSet(i64),
    TimerDelete(i64),
    Emit,
    ItemAdd,
    /// Prunes the lists of all subtasks.
    ItemsPrune,
    UnionAdd,
    /// Every subtask makes the same put.
    BroadcastPut(u32, u64),
    BroadcastRemove(u32),
}

/// The subtasks that process a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The owner of the record's key.
    Owner,
    All,
}

/// A record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) index: u64,
    /// Event time, which never falls.
    pub(crate) time: i64,
    pub(crate) key: u16,
    pub(crate) namespace: u8,
    pub(crate) op: Op,
}

impl Record {
    pub(crate) fn reach(&self) -> Reach {
        match self.op {
            Op::OrderedClearNamespace | Op::ItemsPrune | Op::BroadcastPut(..) | Op::BroadcastRemove(_) => Reach::All,
            _ => Reach::Owner,
        }
    }

    /// Returns the text that the record stores, which no log line may show.
    pub(crate) fn text(&self, length: usize) -> Vec<u8> {
        let pattern = format!("{SECRET}-{}-", self.index);
        pattern.bytes().cycle().take(length).collect()
    }
}

/// The properties of a log, drawn from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    seed: u64,
    pub(crate) keys: u16,
    /// Of 1000 records, the number that go to one key.
    hot: u64,
    largest_text: usize,
    step_ms: i64,
    /// Bit set of disabled operation families.
    disabled: u64,
}

impl Workload {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let disabled = rng.next() & rng.next();
        Self {
            seed: rng.next(),
            keys: [1, 4, 16, 40][rng.index(4)],
            hot: [0, 0, 300, 900][rng.index(4)],
            largest_text: [16, 400, 400, 30_000][rng.index(4)],
            step_ms: [1, 10, 100][rng.index(3)],
            disabled: if rng.permille(500) { 0 } else { disabled },
        }
    }

    /// Returns the bytes of a key; those of key 0 are empty.
    pub(crate) fn key(key: u16) -> Vec<u8> {
        if key == 0 { Vec::new() } else { format!("{SECRET}-key-{key}").into_bytes() }
    }

    /// Returns a key's routing hash, for partitioners that take one.
    pub(crate) fn routing(key: u16) -> u64 {
        Rng::new(u64::from(key)).next()
    }

    pub(crate) fn namespace(namespace: u8) -> Vec<u8> {
        if namespace == 0 { Vec::new() } else { vec![b'n', namespace] }
    }

    /// Returns record `index`.
    pub(crate) fn record(&self, index: u64) -> Record {
        let mut rng = Rng::new(self.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let millis = i64::try_from(index).expect("logs are short") * self.step_ms;
        let time =
            1_000 + millis + if self.step_ms > 1 { signed(&mut rng, self.step_ms.unsigned_abs() - 1) } else { 0 };
        let key = if rng.permille(self.hot) { 0 } else { rng.within(0, u64::from(self.keys) - 1) };
        let key = u16::try_from(key).expect("keys are few");
        let namespace = u8::try_from(rng.within(0, u64::from(NAMESPACES) - 1)).expect("namespaces are few");
        let op = self.op(&mut rng, index, time);
        Record { index, time, key, namespace, op }
    }

    /// Draws an operation of an enabled family.
    fn op(&self, rng: &mut Rng, index: u64, time: i64) -> Op {
        let family = loop {
            let family = rng.within(0, 13);
            if family == 0 || self.disabled >> family & 1 == 0 {
                break family;
            }
        };
        let number = rng.within(0, 1_000);
        let small = u32::try_from(index & 0xffff_ffff).expect("the number is masked");
        let sub = u16::try_from(rng.within(0, 7)).expect("sub-keys are few");
        let at = |rng: &mut Rng| {
            let at = time + 1 + signed(rng, 400);
            at + (TIMER_GRID_MS - at.rem_euclid(TIMER_GRID_MS)) % TIMER_GRID_MS
        };
        let variant = rng.within(0, 9);
        match (family, variant) {
            (0, 0..=4) => Op::ValuePut(number),
            (0, 5..=7) => Op::ValueAdd(number),
            (0, 8) => Op::ValueTake,
            (0, _) => Op::ValueClear,
            (1, 0..=7) => Op::TextPut(rng.index(self.largest_text)),
            (1, _) => Op::TextClear,
            (2, 0..=7) => Op::ListAdd(small),
            (2, 8) => Op::ListReplace(small),
            (2, _) => Op::ListClear,
            (3, 0..=5) => Op::MapPut(sub, number),
            (3, 6 | 7) => Op::MapRemove(sub),
            (3, 8) => Op::MapRetainOdd,
            (3, _) => Op::MapClear,
            (4, 0..=4) => Op::OrderedPut(i64::from(sub) - 3),
            (4, 5 | 6) => Op::OrderedRemove(i64::from(sub) - 3),
            (4, 7) => Op::OrderedClear,
            (4, 8) => Op::OrderedClearKey,
            (4, _) => Op::OrderedClearNamespace,
            (5, 0..=8) => Op::SumAdd(number),
            (5, _) => Op::SumClear,
            (6, 0..=8) => Op::MeanAdd(number),
            (6, _) => Op::MeanClear,
            (7, 0..=3) => Op::FadingPut(number),
            (7, 4..=6) => Op::FadingListAdd(small),
            (7, _) => Op::FadingSumAdd(number),
            (8, 0..=6) => Op::FadingMapPut(sub, number),
            (8, _) => Op::FadingMapRead(sub),
            (9, _) => Op::Seen,
            (10, 0..=7) => Op::TimerSet(at(rng)),
            (10, _) => Op::TimerDelete(at(rng)),
            (11, _) => Op::Emit,
            (12, 0..=4) => Op::ItemAdd,
            (12, 5) => Op::ItemsPrune,
            (12, _) => Op::UnionAdd,
            (_, 0..=7) => Op::BroadcastPut(u32::from(sub), number),
            (_, _) => Op::BroadcastRemove(u32::from(sub)),
        }
    }
}

fn signed(rng: &mut Rng, max: u64) -> i64 {
    i64::try_from(rng.within(0, max)).expect("a small number")
}
