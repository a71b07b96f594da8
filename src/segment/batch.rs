//! A group's rows, collected, sorted and folded: the one merge that encoding, restoring, materializing and
//! comparing are all made of.

use std::collections::BTreeMap;

use super::row::{Columns, Op, Row, RowKey};
use super::rules::{Below, OwnedPiece, Rules, TableRules};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::time::Timestamp;

/// What a fold keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// The rows stand alone: deletes and clears have done their work and go.
    Base,
    /// Older rows lie below: deletes and clears stay.
    Delta,
}

/// Rows of one key group in position order, oldest first; after [`RowBatch::fold`] in key order.
///
/// It owns its bytes and is meant to be reused from group to group.
#[derive(Debug, Default)]
pub struct RowBatch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    order: Vec<u32>,
}

/// A row without its bytes: their start and lengths. The parts lie one behind the other.
#[derive(Debug, Clone, Copy)]
struct Span {
    table: TableId,
    start: u32,
    key: Option<u32>,
    namespace: Option<u32>,
    sub: Option<u32>,
    payload: u32,
    op: Code,
    columns: Columns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Put,
    Delete,
    Merge,
    Clear,
}

impl RowBatch {
    /// Returns an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all rows, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.order.clear();
    }

    /// Returns how many rows it has (after a fold: how many remain).
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Appends a row, newer than all before it.
    ///
    /// # Errors
    /// `Usage` if the place does not fit the operation; `Limit` if the group's rows exceed 4 GiB.
    pub fn push(&mut self, row: &Row<'_>) -> Result<()> {
        if !row.key.fits(&row.op) {
            return Err(Error::usage("row has parts that its operation cannot have"));
        }
        let too_large = |_| Error::limit("rows of one key group exceed 4 GiB: raise max_parallelism");
        let start = u32::try_from(self.bytes.len()).map_err(too_large)?;
        let length = |part: Option<&[u8]>| part.map(|p| u32::try_from(p.len()).map_err(too_large)).transpose();
        let payload = row.op.payload();
        let span = Span {
            table: row.key.table,
            start,
            key: length(row.key.key)?,
            namespace: length(row.key.namespace)?,
            sub: length(row.key.sub)?,
            payload: u32::try_from(payload.len()).map_err(too_large)?,
            op: match row.op {
                Op::Put(_) => Code::Put,
                Op::Delete => Code::Delete,
                Op::Merge(_) => Code::Merge,
                Op::Clear => Code::Clear,
            },
            columns: row.columns,
        };
        for part in [row.key.key, row.key.namespace, row.key.sub, Some(payload)].into_iter().flatten() {
            self.bytes.extend_from_slice(part);
        }
        u32::try_from(self.bytes.len()).map_err(too_large)?;
        self.order.push(u32::try_from(self.spans.len()).map_err(too_large)?);
        self.spans.push(span);
        Ok(())
    }

    /// Returns the rows in their present order.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.order.iter().filter_map(|&at| self.row(at))
    }

    fn row(&self, at: u32) -> Option<Row<'_>> {
        let span = self.spans.get(at as usize)?;
        let mut rest = self.bytes.get(span.start as usize..)?;
        let mut take = |length: u32| {
            let (part, tail) = rest.split_at_checked(length as usize)?;
            rest = tail;
            Some(part)
        };
        let mut part = |length: Option<u32>| length.and_then(&mut take);
        let key =
            RowKey { table: span.table, key: part(span.key), namespace: part(span.namespace), sub: part(span.sub) };
        let payload = take(span.payload)?;
        let op = match span.op {
            Code::Put => Op::Put(payload),
            Code::Delete => Op::Delete,
            Code::Merge => Op::Merge(payload),
            Code::Clear => Op::Clear,
        };
        Some(Row { key, op, columns: span.columns })
    }

    /// Sorts the rows by place and keeps, for each place, only what still matters: the newest put or delete and
    /// the merges after it, unless a newer clear covers them. Where a table has rules, what has expired goes, and
    /// operands merge; in a base, values of older versions become present ones.
    ///
    /// # Errors
    /// What the rules' operators return; `Limit` as [`RowBatch::push`].
    pub fn fold(&mut self, keep: Fold, rules: &Rules) -> Result<()> {
        let mut order = std::mem::take(&mut self.order);
        // Stable: rows of one place stay oldest first.
        order.sort_by(|&a, &b| self.row(a).map(|row| row.key).cmp(&self.row(b).map(|row| row.key)));
        let mut clears = Clears::default();
        let mut kept = Vec::with_capacity(order.len());
        let mut ruled = Vec::new();
        for run in order.chunk_by(|&a, &b| self.row(a).map(|row| row.key) == self.row(b).map(|row| row.key)) {
            let (Some(&newest), Some(row)) = (run.last(), run.first().and_then(|&at| self.row(at))) else { continue };
            if row.op == Op::Clear {
                clears.note(&row.key, newest);
                kept.extend((keep == Fold::Delta).then_some(newest));
                continue;
            }
            let visible = run.partition_point(|&at| clears.covers(&row.key, at));
            let visible = run.get(visible..).unwrap_or_default();
            let newest_whole = visible.iter().rposition(|&at| self.code(at) != Some(Code::Merge)).unwrap_or(0);
            let remaining = visible.get(newest_whole..).unwrap_or_default();
            match rules.table(row.key.table).filter(|table| self.needs_rules(remaining, table, keep)) {
                Some(table) => ruled.push((kept.len(), self.ruled(remaining, keep, table, rules.now(table))?)),
                None => {
                    let remaining = remaining.iter().copied();
                    kept.extend(remaining.filter(|&at| keep == Fold::Delta || self.code(at) != Some(Code::Delete)));
                }
            }
        }
        drop(clears);
        self.order = kept;
        self.insert(ruled)
    }

    fn code(&self, at: u32) -> Option<Code> {
        self.spans.get(at as usize).map(|span| span.op)
    }

    /// Returns whether these rows of one place may not stay as they are.
    fn needs_rules(&self, rows: &[u32], table: &TableRules, keep: Fold) -> bool {
        let merges = rows.iter().any(|&at| self.code(at) == Some(Code::Merge));
        let upgrades = keep == Fold::Base && table.upgrade.is_some();
        let older = |row: Row<'_>| row.piece().version != table.version;
        table.ttl.is_some() || merges || (upgrades && rows.iter().filter_map(|&at| self.row(at)).any(older))
    }

    /// Returns what the rows of one place become by the rules of their table.
    fn ruled(&self, rows: &[u32], keep: Fold, table: &TableRules, now: Timestamp) -> Result<Vec<Ruled>> {
        let Some(template) = rows.first().copied() else { return Ok(Vec::new()) };
        let whole = self.code(template) != Some(Code::Merge);
        let pieces = rows.iter().filter(|&&at| matches!(self.code(at), Some(Code::Put | Code::Merge)));
        let pieces = pieces.filter_map(|&at| Some(OwnedPiece::of(&self.row(at)?.piece()))).collect();
        // Older versions are upgraded where everything is written anew; in a delta they stay what they were.
        let below = if whole || keep == Fold::Base { Below::Nothing } else { Below::Unknown };
        let living = table.combine(pieces, below, now, keep == Fold::Base)?;
        let ruled = |code, piece| Ruled { template, code, piece };
        // Of a row that had operands only nothing is known but them, unless nothing lies below.
        let mut first = if whole || keep == Fold::Base { Code::Put } else { Code::Merge };
        if living.is_empty() {
            return Ok(if whole && keep == Fold::Delta { vec![ruled(Code::Delete, None)] } else { Vec::new() });
        }
        let code = || std::mem::replace(&mut first, Code::Merge);
        Ok(living
            .into_iter()
            .map(Some)
            .zip(std::iter::repeat_with(code))
            .map(|(piece, code)| ruled(code, piece))
            .collect())
    }

    /// Inserts new rows into the order, each list where it was made.
    fn insert(&mut self, ruled: Vec<(usize, Vec<Ruled>)>) -> Result<()> {
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

    /// Adds a row at the place of its template and returns its number.
    fn add(&mut self, ruled: &Ruled) -> Result<u32> {
        let too_large = |_| Error::limit("rows of one key group exceed 4 GiB: raise max_parallelism");
        let Some(mut span) = self.spans.get(ruled.template as usize).copied() else {
            return Err(Error::corrupt("a row is gone"));
        };
        let length = [span.key, span.namespace, span.sub].into_iter().flatten().sum::<u32>();
        let place = span.start as usize..span.start.saturating_add(length) as usize;
        span.start = u32::try_from(self.bytes.len()).map_err(too_large)?;
        self.bytes.extend_from_within(place);
        span.op = ruled.code;
        span.columns = Columns { routing: span.columns.routing, ..Columns::default() };
        span.payload = 0;
        if let Some(piece) = &ruled.piece {
            self.bytes.extend_from_slice(&piece.bytes);
            span.payload = u32::try_from(piece.bytes.len()).map_err(too_large)?;
            span.columns = Columns::of(&piece.borrow(), span.columns.routing);
        }
        u32::try_from(self.bytes.len()).map_err(too_large)?;
        let number = u32::try_from(self.spans.len()).map_err(too_large)?;
        self.spans.push(span);
        Ok(number)
    }
}

/// A row that rules made, at the place of row `template`.
struct Ruled {
    template: u32,
    code: Code,
    piece: Option<OwnedPiece>,
}

/// The clears met so far in key order. Each sorts before all rows that it covers.
#[derive(Default)]
struct Clears<'a> {
    table: Option<TableId>,
    namespaces: BTreeMap<&'a [u8], u32>,
    key: Option<(&'a [u8], u32)>,
    key_namespace: Option<(&'a [u8], &'a [u8], u32)>,
}

impl<'a> Clears<'a> {
    fn note(&mut self, place: &RowKey<'a>, position: u32) {
        if self.table != Some(place.table) {
            *self = Self { table: Some(place.table), ..Self::default() };
        }
        match (place.key, place.namespace) {
            (Some(key), Some(namespace)) => self.key_namespace = Some((key, namespace, position)),
            (Some(key), None) => self.key = Some((key, position)),
            (None, Some(namespace)) => drop(self.namespaces.insert(namespace, position)),
            (None, None) => {}
        }
    }

    /// Returns whether a clear newer than `position` covers the row of data at `place`.
    fn covers(&self, place: &RowKey<'_>, position: u32) -> bool {
        let (Some(key), Some(namespace)) = (place.key, place.namespace) else { return false };
        let of_namespace = self.namespaces.get(namespace).copied();
        let of_key = self.key.and_then(|(k, at)| (k == key).then_some(at));
        let of_both = self.key_namespace.and_then(|(k, n, at)| (k == key && n == namespace).then_some(at));
        self.table == Some(place.table) && of_namespace.max(of_key).max(of_both).is_some_and(|at| at > position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn newest_wins_and_merges_stay_behind_their_base() {
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
    fn clears_undo_older_rows_in_scope_and_nothing_else() {
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
    fn rows_that_do_not_fit_are_refused() {
        let mut batch = RowBatch::new();
        let mut push = |key, op| batch.push(&Row { key, op, columns: Columns::default() });
        assert!(push(clear(Some("a"), None).0, Op::Put(b"")).is_err());
        assert!(push(data("a", ""), Op::Clear).is_err());
        assert!(push(RowKey { table: T, key: None, namespace: None, sub: None }, Op::Clear).is_err());
    }
}
