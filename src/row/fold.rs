//! The fold: sorts a batch and keeps the rows that still matter. Encoding, restoring, materializing and comparing share
//! this code.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::batch::{RowBatch, number};
use super::key::RowKey;
use super::op::{Columns, Row};
use super::piece::OwnedPiece;
use super::rules::{Below, Rules, TableRules};
use super::sealed::SegmentKind;
use super::shape;
use super::span::RowSpan;
use crate::error::{Error, Result, broken};
use crate::id::TableId;
use crate::time::Timestamp;

/// The rows kept by a fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// No older rows lie below: deletes and clears are dropped once applied.
    Base,
    /// Older rows lie below: deletes and clears are kept.
    Delta,
}

impl Fold {
    /// Returns the fold for a segment of this kind.
    pub(crate) fn of(kind: SegmentKind) -> Self {
        if kind == SegmentKind::Base { Self::Base } else { Self::Delta }
    }
}

/// The sort key of a row: decides most comparisons without reading the row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rank {
    table: TableId,
    /// The row's index.
    at: u32,
    /// The first bytes of the key after the prefix common to all keys, big-endian. Orders keys correctly whenever
    /// prefixes differ.
    prefix: u64,
}

impl RowBatch {
    /// Sorts the rows by place and keeps, at each place, the newest put or delete and the later merges, unless a newer
    /// clear covers them. Rules of a table drop expired rows and merge operands; in a base they also upgrade values of
    /// older versions.
    ///
    /// # Errors
    /// The errors of the rules' operators; `Limit` as [`RowBatch::push`].
    pub fn fold(&mut self, keep: Fold, rules: &Rules) -> Result<()> {
        let (mut kept, mut ranks) = (std::mem::take(&mut self.order), std::mem::take(&mut self.ranks));
        let shared = self.common_prefix_length();
        ranks.clear();
        ranks.extend(kept.drain(..).map(|at| self.rank(at, shared)));
        // Stable: rows of one place stay oldest first. Words first: few rows have the same one.
        sort_by_word(&mut ranks, &mut self.spare_ranks);
        for alike in ranks.chunk_by_mut(|a, b| a.word() == b.word()) {
            alike.sort_by(|a, b| self.compare_places(a, b));
        }
        let mut folded = Folded { kept, ruled: Vec::new() };
        for of_table in ranks.chunk_by(|a, b| a.table == b.table) {
            let table = of_table.first().and_then(|row| rules.table(row.table));
            self.fold_table(of_table, keep, table.map(|table| (table, rules.now(table))), &mut folded)?;
        }
        self.ranks = ranks;
        self.order = folded.kept;
        self.insert_ruled(folded.ruled)
    }

    /// Folds the sorted rows of one table.
    fn fold_table(
        &self,
        rows: &[Rank],
        keep: Fold,
        rules: Option<(&TableRules, Timestamp)>,
        folded: &mut Folded,
    ) -> Result<()> {
        let mut clears = Clears::default();
        for run in rows.chunk_by(|a, b| a.prefix == b.prefix && self.compare_places(a, b).is_eq()) {
            let (Some(first), Some(newest)) = (run.first(), run.last()) else { continue };
            if self.op(first.at) == Some(shape::CLEAR) {
                self.place(first.at).into_iter().for_each(|place| clears.note(&place, newest.at));
                folded.kept.extend((keep == Fold::Delta).then_some(newest.at));
                continue;
            }
            let visible = match self.place(first.at) {
                Some(place) if !clears.is_empty() => run.partition_point(|row| clears.covers(&place, row.at)),
                _ => 0,
            };
            let visible = run.get(visible..).unwrap_or_default();
            let newest_whole = visible.iter().rposition(|row| self.op(row.at) != Some(shape::MERGE)).unwrap_or(0);
            let remaining = visible.get(newest_whole..).unwrap_or_default();
            match rules.filter(|(table, _)| self.needs_rules(remaining, table, keep)) {
                Some((table, now)) => {
                    folded.ruled.push((folded.kept.len(), self.apply_rules(remaining, keep, table, now)?));
                }
                None => {
                    let kept = |row: &&Rank| keep == Fold::Delta || self.op(row.at) != Some(shape::DELETE);
                    folded.kept.extend(remaining.iter().filter(kept).map(|row| row.at));
                }
            }
        }
        Ok(())
    }

    /// Returns whether the table's rules may change these rows of one place.
    fn needs_rules(&self, rows: &[Rank], table: &TableRules, keep: Fold) -> bool {
        let merges = rows.iter().any(|row| self.op(row.at) == Some(shape::MERGE));
        let upgrades = keep == Fold::Base && table.upgrade.is_some();
        let older = |row: Row<'_>| row.piece().version != table.version;
        table.ttl.is_some() || merges || (upgrades && rows.iter().filter_map(|row| self.row(row.at)).any(older))
    }

    /// Applies the table's rules to the rows of one place.
    fn apply_rules(&self, rows: &[Rank], keep: Fold, table: &TableRules, now: Timestamp) -> Result<Vec<Ruled>> {
        let Some(template) = rows.first().map(|row| row.at) else { return Ok(Vec::new()) };
        let whole = self.op(template) != Some(shape::MERGE);
        let pieces = rows.iter().filter(|row| matches!(self.op(row.at), Some(shape::PUT | shape::MERGE)));
        let pieces = pieces.filter_map(|row| Some(OwnedPiece::of(&self.row(row.at)?.piece()))).collect();
        // Only a base upgrades older versions: it rewrites every row. A delta keeps them.
        let below = if whole || keep == Fold::Base { Below::Nothing } else { Below::Unknown };
        let living = table.combine(pieces, below, now, keep == Fold::Base)?;
        let ruled = |op, piece| Ruled { template, op, piece };
        // Operands alone stay operands, unless nothing lies below.
        let mut first = if whole || keep == Fold::Base { shape::PUT } else { shape::MERGE };
        if living.is_empty() {
            // An operand that renews the whole value also expires it, even a value below without a stamp.
            let gone = whole || table.renews_whole();
            return Ok(if gone && keep == Fold::Delta { vec![ruled(shape::DELETE, None)] } else { Vec::new() });
        }
        let op = || std::mem::replace(&mut first, shape::MERGE);
        Ok(living.into_iter().map(Some).zip(std::iter::repeat_with(op)).map(|(piece, op)| ruled(op, piece)).collect())
    }

    /// Inserts the rows made by rules into the order, each list at its position.
    fn insert_ruled(&mut self, ruled: Vec<(usize, Vec<Ruled>)>) -> Result<()> {
        if ruled.is_empty() {
            return Ok(());
        }
        let mut kept = std::mem::take(&mut self.order).into_iter();
        let (mut order, mut taken) = (Vec::new(), 0);
        for (at, rows) in ruled {
            order.extend(kept.by_ref().take(at - taken));
            taken = at;
            for row in rows {
                order.push(self.add(&row)?);
            }
        }
        order.extend(kept);
        self.order = order;
        Ok(())
    }

    /// Adds a row at the place of its template and returns its index.
    fn add(&mut self, ruled: &Ruled) -> Result<u32> {
        let Some(mut span) = self.spans.get(ruled.template as usize).copied() else {
            return Err(Error::corrupt("a row is gone"));
        };
        let routing = self.row(ruled.template).and_then(|row| row.columns.routing);
        let mut columns = Columns { routing, ..Columns::default() };
        span.shape = span.shape & !shape::OP_MASK | ruled.op;
        (span.payload, span.payload_length) = (number(self.bytes.len())?, 0);
        if let Some(piece) = &ruled.piece {
            self.bytes.extend_from_slice(&piece.bytes);
            span.payload_length = number(piece.bytes.len())?;
            columns = Columns::of(&piece.borrow(), routing);
        }
        span.columns = self.put_columns(columns)?;
        number(self.bytes.len())?;
        let at = number(self.spans.len())?;
        self.spans.push(span);
        Ok(at)
    }

    fn op(&self, at: u32) -> Option<u8> {
        self.spans.get(at as usize).map(RowSpan::op)
    }

    fn rank(&self, at: u32, shared: usize) -> Rank {
        let span = self.spans.get(at as usize);
        let key = span.and_then(|span| span.key(&self.bytes)?.get(shared..));
        Rank { table: span.map(|span| span.table).unwrap_or_default(), at, prefix: prefix(key.unwrap_or_default()) }
    }

    /// Returns the length of the prefix common to all keys.
    fn common_prefix_length(&self) -> usize {
        let mut keys = self.spans.iter().map(|span| span.key(&self.bytes).unwrap_or_default());
        let Some(mut shared) = keys.next() else { return 0 };
        for key in keys {
            let alike = key.iter().zip(shared).take_while(|(a, b)| a == b).count();
            shared = shared.get(..alike).unwrap_or_default();
            if alike == 0 {
                break;
            }
        }
        shared.len()
    }

    #[inline(never)]
    fn compare_places(&self, a: &Rank, b: &Rank) -> Ordering {
        self.place(a.at).cmp(&self.place(b.at))
    }
}

impl Rank {
    /// Returns table and prefix as one number, in the order of places wherever two differ.
    #[inline]
    fn word(&self) -> u128 {
        u128::from(self.table.0) << u64::BITS | u128::from(self.prefix)
    }
}

/// The most buckets of a sort.
const BUCKETS_MAX: usize = 1 << 11;

/// The fewest rows that are worth buckets.
const BUCKETED_ROWS_MIN: usize = 256;

/// Sorts by word, stably: into buckets by the bits in which the words differ first, then each bucket. Keys are mostly
/// hashes or counters, so buckets are small. `spare` is scratch memory.
fn sort_by_word(ranks: &mut Vec<Rank>, spare: &mut Vec<Rank>) {
    let words = || ranks.iter().map(Rank::word);
    if words().is_sorted() {
        return;
    }
    if ranks.len() < BUCKETED_ROWS_MIN {
        return ranks.sort_by_key(Rank::word);
    }
    let (least, most) = words().fold((u128::MAX, 0), |(least, most), word| (least.min(word), most.max(word)));
    let buckets = (ranks.len() / 4).next_power_of_two().min(BUCKETS_MAX);
    let shift = (u128::BITS - (most - least).leading_zeros()).saturating_sub(buckets.ilog2());
    let bucket = |rank: &Rank| usize::try_from((rank.word() - least) >> shift).unwrap_or(usize::MAX);
    let mut ends = [0usize; BUCKETS_MAX];
    for rank in &*ranks {
        let Some(count) = ends.get_mut(bucket(rank)) else { no_bucket() };
        *count += 1;
    }
    let mut end = 0;
    ends.iter_mut().for_each(|count| (*count, end) = (end, end + *count));
    spare.clear();
    spare.resize(ranks.len(), Rank::default());
    for rank in &*ranks {
        let Some(next) = ends.get_mut(bucket(rank)) else { no_bucket() };
        let Some(to) = spare.get_mut(*next) else { no_bucket() };
        (*to, *next) = (*rank, *next + 1);
    }
    std::mem::swap(ranks, spare);
    let mut start = 0;
    for end in ends.into_iter().take(buckets) {
        let Some(of_bucket) = ranks.get_mut(start..end) else { no_bucket() };
        of_bucket.sort_by_key(Rank::word);
        start = end;
    }
}

#[cold]
fn no_bucket() -> ! {
    broken("each row has a place in its bucket")
}

#[inline]
fn prefix(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut first = [0; size_of::<u64>()];
    first.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

/// The result of a fold so far.
struct Folded {
    kept: Vec<u32>,
    /// Rows made by rules; each list with the number of kept rows before it.
    ruled: Vec<(usize, Vec<Ruled>)>,
}

/// A row made by rules, at the place of row `template`.
struct Ruled {
    template: u32,
    op: u8,
    piece: Option<OwnedPiece>,
}

/// The clears of a table so far, in the order of places. Each sorts before all rows covered by it.
#[derive(Default)]
struct Clears<'a> {
    namespaces: BTreeMap<&'a [u8], u32>,
    key: Option<(&'a [u8], u32)>,
    key_namespace: Option<(&'a [u8], &'a [u8], u32)>,
}

impl<'a> Clears<'a> {
    fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.key.is_none() && self.key_namespace.is_none()
    }

    fn note(&mut self, place: &RowKey<'a>, position: u32) {
        match (place.key, place.namespace) {
            (Some(key), Some(namespace)) => self.key_namespace = Some((key, namespace, position)),
            (Some(key), None) => self.key = Some((key, position)),
            (None, Some(namespace)) => drop(self.namespaces.insert(namespace, position)),
            (None, None) => {}
        }
    }

    /// Returns whether a clear newer than `position` covers the data row at `place`.
    fn covers(&self, place: &RowKey<'_>, position: u32) -> bool {
        let (Some(key), Some(namespace)) = (place.key, place.namespace) else { return false };
        let of_namespace = self.namespaces.get(namespace).copied();
        let of_key = self.key.and_then(|(k, at)| (k == key).then_some(at));
        let of_both = self.key_namespace.and_then(|(k, n, at)| (k == key && n == namespace).then_some(at));
        of_namespace.max(of_key).max(of_both).is_some_and(|at| at > position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Op;

    const T: TableId = TableId(1);

    fn folded(rows: &[(RowKey<'_>, Op<'_>)], keep: Fold) -> Vec<String> {
        let mut batch = RowBatch::new();
        for &(key, op) in rows {
            batch.push(&Row { key, op, columns: Columns::default() }).unwrap();
        }
        batch.fold(keep, &Rules::none()).unwrap();
        let text = |part: Option<&[u8]>| part.map_or_else(|| "-".into(), |p| String::from_utf8_lossy(p).into_owned());
        let print = |row: Row<'_>| {
            let op = match row.op {
                Op::Put(v) => format!("={}", text(Some(v))),
                Op::Merge(v) => format!("+{}", text(Some(v))),
                Op::Delete => "x".into(),
                Op::Clear => "!".into(),
            };
            format!("{}/{}/{}{op}", text(row.key.key), text(row.key.namespace), text(row.key.sub))
        };
        batch.iter().map(print).collect()
    }

    fn data<'a>(key: &'a str, namespace: &'a str) -> RowKey<'a> {
        RowKey::data(T, key.as_bytes(), namespace.as_bytes(), b"")
    }

    fn clear<'a>(key: Option<&'a str>, namespace: Option<&'a str>) -> (RowKey<'a>, Op<'a>) {
        let bytes = |part: Option<&'a str>| part.map(str::as_bytes);
        (RowKey { table: T, key: bytes(key), namespace: bytes(namespace), sub: None }, Op::Clear)
    }

    #[test]
    fn the_newest_put_wins_and_later_merges_stay_behind_it() {
        let rows = [
            (data("b", ""), Op::Put(b"1")),
            (data("a", ""), Op::Put(b"1")),
            (data("b", ""), Op::Put(b"2")),
            (data("b", ""), Op::Merge(b"3")),
            (data("c", ""), Op::Merge(b"1")),
            (data("c", ""), Op::Merge(b"2")),
            (data("a", ""), Op::Delete),
        ];
        assert_eq!(folded(&rows, Fold::Delta), ["a//x", "b//=2", "b//+3", "c//+1", "c//+2"]);
        assert_eq!(folded(&rows, Fold::Base), ["b//=2", "b//+3", "c//+1", "c//+2"]);
    }

    #[test]
    fn clears_remove_older_rows_in_scope_and_no_others() {
        let rows = [
            (data("a", "w1"), Op::Put(b"1")),
            (data("a", "w2"), Op::Put(b"1")),
            (data("b", "w1"), Op::Put(b"1")),
            clear(Some("a"), None),
            (data("a", "w2"), Op::Put(b"2")),
            (data("c", "w1"), Op::Put(b"1")),
            clear(None, Some("w1")),
            (data("b", "w1"), Op::Put(b"3")),
            (data("d", "w9"), Op::Put(b"1")),
            (data("d", "w8"), Op::Put(b"1")),
            clear(Some("d"), Some("w9")),
        ];
        assert_eq!(folded(&rows, Fold::Base), ["a/w2/=2", "b/w1/=3", "d/w8/=1"]);
        assert_eq!(folded(&rows, Fold::Delta), ["-/w1/-!", "a/-/-!", "a/w2/=2", "b/w1/=3", "d/w8/=1", "d/w9/-!"]);
    }

    #[test]
    fn folded_rows_are_in_the_order_of_their_places() {
        let keys: [&[u8]; 9] =
            [b"", b"\0", b"a", b"a\0", b"abcdefgh", b"abcdefgh\0", b"abcdefghi", b"abcdefgi", b"\xff\xff"];
        let (mut places, mut batch) = (vec![clear(None, Some("w")).0], RowBatch::new());
        for first in keys {
            let table = TableId(u32::from(first.len() > 2));
            places.extend(keys.iter().map(|other| RowKey::data(table, first, other, b"")));
            places.push(RowKey { sub: None, namespace: None, ..RowKey::data(T, first, b"", b"") });
        }
        // Once with all keys, once with the keys that share a prefix.
        for shared in [&b""[..], b"abcd"] {
            batch.clear();
            let mut expected = places.clone();
            expected.retain(|place| place.key.unwrap_or_default().starts_with(shared));
            // Clears first: a clear covers older rows only.
            expected.sort_by_key(|place| place.sub.is_some());
            for place in &expected {
                let op = if place.sub.is_none() { Op::Clear } else { Op::Put(b"v") };
                batch.push(&Row { key: *place, op, columns: Columns::default() }).unwrap();
            }
            batch.fold(Fold::Delta, &Rules::none()).unwrap();
            expected.sort_unstable();
            assert!(batch.iter().map(|row| row.key).eq(expected));
        }
    }

    #[test]
    fn any_words_are_sorted_and_equal_ones_keep_their_order() {
        // Few, many, wide, narrow, and in few buckets.
        let hash = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word_of: [fn(u64) -> u64; 5] = [|at| at, |at| at % 7, |at| at >> 4, |_| 1, |at| u64::MAX * (at % 2)];
        for (rows, word_of) in
            [0, 1, 255, 256, 30_000].into_iter().flat_map(|rows| word_of.map(|word_of| (rows, word_of)))
        {
            let rank = |at: u32| {
                let table = TableId(if at.is_multiple_of(50) { u32::MAX } else { at % 2 });
                Rank { table, at, prefix: word_of(hash(u64::from(at))) }
            };
            let mut ranks: Vec<_> = (0..rows).map(rank).collect();
            let mut expected = ranks.clone();
            expected.sort_by_key(|rank| (rank.table, rank.prefix, rank.at));
            sort_by_word(&mut ranks, &mut Vec::new());
            let fields = |rank: &Rank| (rank.table, rank.prefix, rank.at);
            assert!(ranks.iter().map(fields).eq(expected.iter().map(fields)));
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let mut batch = RowBatch::new();
        let mut push = |key, op| batch.push(&Row { key, op, columns: Columns::default() });
        assert!(push(clear(Some("a"), None).0, Op::Put(b"")).is_err());
        assert!(push(data("a", ""), Op::Clear).is_err());
        assert!(push(RowKey { table: T, key: None, namespace: None, sub: None }, Op::Clear).is_err());
    }
}
