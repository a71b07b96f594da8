//! What a table's rows mean beyond their bytes: how operands merge, when rows expire, how old values become new ones.
//!
//! Invariants:
//! - rules look at stamps and at the times they are given, never at a clock;
//! - a row that was expired once stays expired: times do not go back, and a longer life revives nothing;
//! - pieces of one version merge; of several versions only after the older became newer ones.

use std::fmt::Debug;
use std::sync::Arc;

use super::format::MAX_VALUE_BYTES;
use super::times::{GroupTimes, narrowed, united};
use crate::error::{Error, Result, broken};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::time::Timestamp;

/// Version of values that carry none.
pub const FIRST_VERSION: u32 = 1;

/// Makes one value of two. It must be associative: a backend merges operands before it has the value they belong to.
///
/// A row that has operands only has what they make of each other.
pub trait MergeOperator: Debug + Send + Sync {
    /// Returns its name, which checkpoints store.
    fn name(&self) -> &str;

    /// Appends to `out` what `newer` makes of `older`.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not values; what a function of the user's returns. Nothing is changed then.
    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()>;

    /// Makes of `value` what `newer` makes of it. An operator that [grows](MergeOperator::grows) should do so in place:
    /// a value of many pieces is put together by one such call for each.
    ///
    /// # Errors
    /// As [`MergeOperator::merge`]; `value` is then as it was.
    fn merge_into(&self, value: &mut Vec<u8>, newer: &[u8]) -> Result<()> {
        let mut merged = Vec::new();
        self.merge(value, newer, &mut merged)?;
        *value = merged;
        Ok(())
    }

    /// Returns whether a merged value is as long as both together: a backend then keeps the pieces, each with its
    /// own life, so that adding one costs nothing of the others.
    fn grows(&self) -> bool {
        false
    }
}

/// Puts bytes behind bytes: how lists grow. Known by its name to tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Append;

impl MergeOperator for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(older);
        out.extend_from_slice(newer);
        Ok(())
    }

    fn merge_into(&self, value: &mut Vec<u8>, newer: &[u8]) -> Result<()> {
        value.extend_from_slice(newer);
        Ok(())
    }

    fn grows(&self) -> bool {
        true
    }
}

/// Makes values of a table's present version of values of an older one.
pub trait Upgrade: Debug + Send + Sync {
    /// Appends to `out` the present form of `bytes`, which have version `from`.
    ///
    /// # Errors
    /// `Corrupt` if they have not; `Version` if that version cannot be read.
    fn upgrade(&self, from: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()>;
}

/// When rows expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ttl {
    /// Life in milliseconds after a row's stamp; `u64::MAX` if rows live for ever (by now).
    pub millis: u64,
    /// Whether reading renews it, beside writing.
    pub on_read: bool,
    /// Whether it is counted in event time; else in processing time.
    pub event_time: bool,
    /// The stamp of rows that have none: when the table, which had rows, began to expire. `None`: such rows live on.
    pub since: Option<Timestamp>,
    /// Rows whose stamp is not later are gone for ever: they had expired when the life was changed.
    pub dead_until: Option<Timestamp>,
}

impl Ttl {
    /// Returns whether a row with this stamp has expired at `now`.
    #[must_use]
    pub fn expired(&self, stamp: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(stamp) = stamp.or(self.since) else { return false };
        let life = i64::try_from(self.millis).unwrap_or(i64::MAX);
        let end = stamp.as_millis().checked_add(life);
        self.dead_until.is_some_and(|dead| stamp <= dead) || end.is_some_and(|end| end <= now.as_millis())
    }
}

/// What the rows of one table mean.
#[derive(Debug, Clone)]
pub struct TableRules {
    /// Version of the values that are written from now on.
    pub version: u32,
    /// Whether the rows of a key and namespace can be visited in the order of their sub-keys.
    pub ordered: bool,
    /// Whether the rows of a key and namespace can be visited alone, as those of a map are. If not, visiting or clearing
    /// them may cost a step per row of the group, in no particular order, and writing is cheaper.
    pub by_key: bool,
    /// When rows expire; `None` if they never did.
    pub ttl: Option<Ttl>,
    /// How operands merge.
    pub merge: Option<Arc<dyn MergeOperator>>,
    /// How values of older versions become present ones.
    pub upgrade: Option<Arc<dyn Upgrade>>,
}

impl Default for TableRules {
    fn default() -> Self {
        Self { version: FIRST_VERSION, ordered: false, by_key: true, ttl: None, merge: None, upgrade: None }
    }
}

/// A value or an operand as it is stored. A row's value is what its pieces make, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Version of their encoding.
    pub version: u32,
    /// When it was last written, or read where reading renews it; in the time that its table expires by.
    pub stamp: Option<Timestamp>,
}

/// A piece that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnedPiece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: u32,
    pub(crate) stamp: Option<Timestamp>,
}

impl OwnedPiece {
    pub(crate) fn of(piece: &Piece<'_>) -> Self {
        Self { bytes: piece.bytes.to_vec(), version: piece.version, stamp: piece.stamp }
    }

    pub(crate) fn borrow(&self) -> Piece<'_> {
        Piece { bytes: &self.bytes, version: self.version, stamp: self.stamp }
    }

    /// Merges a newer piece into this one, unless that becomes too long for a segment. Returns whether it did.
    fn merge(&mut self, operator: &dyn MergeOperator, newer: &Piece<'_>) -> Result<bool> {
        if operator.grows() {
            if self.bytes.len() + newer.bytes.len() > MAX_VALUE_BYTES {
                return Ok(false);
            }
            operator.merge_into(&mut self.bytes, newer.bytes)?;
        } else {
            let mut merged = Vec::new();
            operator.merge(&self.bytes, newer.bytes, &mut merged)?;
            if merged.len() > MAX_VALUE_BYTES {
                return Ok(false);
            }
            self.bytes = merged;
        }
        self.stamp = newer.stamp;
        Ok(true)
    }
}

impl TableRules {
    /// Returns whether an operand renews the life of all that it is merged with: then only the newest piece of a row decides
    /// whether the row has expired.
    #[must_use]
    pub fn renews_whole(&self) -> bool {
        self.merge.as_deref().is_some_and(|operator| !operator.grows())
    }

    /// Returns whether a piece has expired at `now`.
    #[must_use]
    pub fn expired(&self, stamp: Option<Timestamp>, now: Timestamp) -> bool {
        self.ttl.is_some_and(|ttl| ttl.expired(stamp, now))
    }

    /// Writes the present form of a piece's bytes to `out`, which is empty.
    ///
    /// # Errors
    /// `Version` if there is no way from its version; what the upgrade returns.
    pub fn present(&self, piece: &Piece<'_>, out: &mut Vec<u8>) -> Result<()> {
        if piece.version == self.version {
            out.extend_from_slice(piece.bytes);
            return Ok(());
        }
        match &self.upgrade {
            Some(upgrade) => upgrade.upgrade(piece.version, piece.bytes, out),
            None => Err(Error::version("value has another version than the table")
                .with("stored", piece.version)
                .with("declared", self.version)),
        }
    }

    /// Merges pieces, oldest first, as far as may be. What remains lives at `now`: one piece, or several whose lives or
    /// versions differ, or that together are too long for a segment, or that nothing here can merge.
    ///
    /// No piece becomes longer than [`MAX_VALUE_BYTES`] here, so that no row keeps a segment from being written.
    ///
    /// * `upgrade`: whether older versions become present ones first.
    ///
    /// # Cost
    /// Linear in the pieces' bytes for an operator that grows; for others that of as many merges as there are pieces.
    ///
    /// # Errors
    /// What merging and upgrading return.
    pub(crate) fn combine(
        &self,
        pieces: Vec<OwnedPiece>,
        below: Below,
        now: Timestamp,
        upgrade: bool,
    ) -> Result<Vec<OwnedPiece>> {
        let mut combined: Vec<OwnedPiece> = Vec::with_capacity(pieces.len().min(4));
        for mut piece in pieces {
            if upgrade && piece.version != self.version && self.upgrade.is_some() {
                let mut bytes = Vec::new();
                self.present(&piece.borrow(), &mut bytes)?;
                // A form that is too long is made anew by each reader.
                if bytes.len() <= MAX_VALUE_BYTES {
                    (piece.bytes, piece.version) = (bytes, self.version);
                }
            }
            let join = self.joins(&combined, &piece, below);
            if let (Some(join), Some(older)) = (join, combined.last_mut()) {
                match join {
                    Join::Replace => *older = piece,
                    Join::Merge(operator) if older.merge(operator, &piece.borrow())? => {}
                    Join::Merge(_) => combined.push(piece),
                }
            } else {
                combined.push(piece);
            }
        }
        if self.renews_whole() {
            // The last one renewed those before it.
            if combined.last().is_some_and(|last| self.expired(last.stamp, now)) {
                combined.clear();
            }
        } else {
            combined.retain(|piece| !self.expired(piece.stamp, now));
        }
        Ok(combined)
    }

    /// Merges `newer` into the piece before it if the table's operator grows, and their lives and versions are the same.
    /// Returns whether it did.
    ///
    /// # Errors
    /// What merging returns; `older` is then as it was.
    pub(crate) fn append(&self, older: &mut OwnedPiece, newer: &Piece<'_>) -> Result<bool> {
        let alike = (older.version, older.stamp) == (newer.version, newer.stamp);
        match self.merge.as_deref().filter(|operator| alike && operator.grows()) {
            Some(operator) => older.merge(operator, newer),
            None => Ok(false),
        }
    }

    /// Returns how `newer` becomes one with the last piece before it, if it does.
    fn joins(&self, before: &[OwnedPiece], newer: &OwnedPiece, below: Below) -> Option<Join<'_>> {
        let operator = self.merge.as_deref()?;
        let (older, before) = before.split_last()?;
        if older.version != newer.version {
            return None;
        }
        if operator.grows() {
            return (older.stamp == newer.stamp).then_some(Join::Merge(operator));
        }
        // The newer operand renewed the whole value, unless it came too late. One without a stamp was written before
        // time began, when only what was dead by then had expired.
        if self.expired(older.stamp, newer.stamp.unwrap_or(Timestamp::MIN)) {
            return Some(Join::Replace);
        }
        let at = newer.stamp.or(older.stamp).unwrap_or(Timestamp::MIN);
        // Whether a value below lived to be renewed is seen by the stamp of the operand that came first, and by each gap
        // after it: operands that bridge a gap stay apart.
        let bridged = before.last().is_some_and(|before| !self.expired(before.stamp, at));
        let joins = below == Below::Nothing || self.ttl.is_none() || older.stamp == newer.stamp || bridged;
        joins.then_some(Join::Merge(operator))
    }

    /// Writes what a reader of these pieces, oldest first, sees at `now` to `out`, which is empty; false if there is no
    /// value.
    ///
    /// # Cost
    /// As [`TableRules::combine`].
    ///
    /// # Errors
    /// What merging and upgrading return; `Usage` if there are operands and nothing to merge them by.
    pub(crate) fn resolve<'a>(
        &self,
        pieces: impl IntoIterator<Item = Piece<'a>>,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let pieces = pieces.into_iter();
        if self.merge.as_deref().is_some_and(MergeOperator::grows) {
            let living = pieces.filter(|piece| !self.expired(piece.stamp, now));
            return self.put_together(living, out);
        }
        let living = self.combine(pieces.map(|piece| OwnedPiece::of(&piece)).collect(), Below::Nothing, now, true)?;
        self.put_together(living.iter().map(OwnedPiece::borrow), out)
    }

    /// Writes what living pieces make to `out`, which is empty; false if there are none.
    fn put_together<'a>(&self, living: impl Iterator<Item = Piece<'a>>, out: &mut Vec<u8>) -> Result<bool> {
        let (mut any, mut newer) = (false, Vec::new());
        for piece in living {
            if !std::mem::replace(&mut any, true) {
                self.present(&piece, out)?;
                continue;
            }
            let Some(operator) = self.merge.as_deref() else {
                return Err(Error::usage("table has operands, and no merge operator was declared"));
            };
            if piece.version == self.version {
                operator.merge_into(out, piece.bytes)?;
            } else {
                newer.clear();
                self.present(&piece, &mut newer)?;
                operator.merge_into(out, &newer)?;
            }
        }
        Ok(any)
    }

    /// Refuses pieces, oldest first, whose value at `now` is longer than values may be.
    ///
    /// # Cost
    /// A step per piece for an operator that grows; for others that of reading them.
    ///
    /// # Errors
    /// `Limit`; what merging and upgrading return.
    pub(crate) fn check_length<'a>(&self, pieces: impl IntoIterator<Item = Piece<'a>>, now: Timestamp) -> Result<()> {
        if self.merge.as_deref().is_some_and(MergeOperator::grows) {
            let living = pieces.into_iter().filter(|piece| !self.expired(piece.stamp, now));
            return check_value_length(living.map(|piece| piece.bytes.len()).sum());
        }
        let mut value = Vec::new();
        self.resolve(pieces, now, &mut value)?;
        check_value_length(value.len())
    }
}

/// Refuses a value of so many bytes if that is too long.
///
/// # Errors
/// `Limit`.
pub(crate) fn check_value_length(bytes: usize) -> Result<()> {
    if bytes <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(Error::limit("value is too long for a segment").with("bytes", bytes).with("limit", MAX_VALUE_BYTES))
}

/// What lies below the oldest of some pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    /// Nothing: they are all that the row has.
    Nothing,
    /// Perhaps a value, elsewhere: they are all operands.
    Unknown,
}

enum Join<'a> {
    Merge(&'a dyn MergeOperator),
    Replace,
}

/// The rules of all tables at an instant.
///
/// Groups that were restored may have times that the clock has not passed yet, and bounds of their own: [`Rules::of`] has
/// what holds for a group.
#[derive(Debug, Clone)]
pub struct Rules {
    tables: Arc<Vec<(TableId, TableRules)>>,
    expire: bool,
    event_time: Timestamp,
    processing_time: Timestamp,
    /// Groups for which something else holds, ascending; `None` if there are none, which is the rule: then looking up a
    /// group's rules is one comparison.
    own: Option<Arc<Vec<Own>>>,
}

/// The rules of some groups, made of their record, the tables' rules and the clock.
#[derive(Debug, Clone)]
struct Own {
    record: GroupTimes,
    /// Without groups of their own.
    rules: Rules,
}

impl Default for Rules {
    fn default() -> Self {
        Self::none()
    }
}

impl Rules {
    /// Returns no rules: rows are what their bytes are.
    #[must_use]
    pub fn none() -> Self {
        let (event_time, processing_time) = (Timestamp::MIN, Timestamp::MIN);
        Self { tables: Arc::default(), expire: false, event_time, processing_time, own: None }
    }

    /// Sets the rules of a table.
    pub fn define(&mut self, table: TableId, rules: TableRules) {
        let tables = Arc::make_mut(&mut self.tables);
        match tables.binary_search_by_key(&table, |(id, _)| *id) {
            Ok(at) => match tables.get_mut(at) {
                Some(slot) => slot.1 = rules,
                None => broken("a table that was found has its rules"),
            },
            Err(at) => tables.insert(at, (table, rules)),
        }
        self.expire = tables.iter().any(|(_, rules)| rules.ttl.is_some());
        let records = self.own_records();
        self.set_own(records);
    }

    /// Moves both times on. Times do not go back: an earlier one leaves the later.
    pub fn advance(&mut self, event_time: Timestamp, processing_time: Timestamp) {
        let before = (self.event_time, self.processing_time);
        self.event_time = self.event_time.max(event_time);
        self.processing_time = self.processing_time.max(processing_time);
        let now = (self.event_time, self.processing_time);
        if let Some(own) = self.own.as_mut().filter(|_| now != before) {
            let own = Arc::make_mut(own);
            own.retain_mut(|own| own.advance(now));
            if own.is_empty() {
                self.own = None;
            }
        }
    }

    /// Lets groups continue from the records of the checkpoint that they are loaded from: in each the later of its record
    /// and the clock counts, and its record's bounds.
    pub fn resume(&mut self, times: &[GroupTimes]) {
        let records = united(&self.own_records(), times);
        self.set_own(records);
    }

    /// Forgets what held for these groups alone.
    pub(crate) fn forget(&mut self, groups: &KeyGroupSet) {
        let records = self.own_records();
        let all = KeyGroupSet::from_ranges(records.iter().map(|record| record.groups));
        self.set_own(narrowed(&records, &all.difference(groups)));
    }

    /// Returns how far time has come in `groups`: the furthest that their rows have expired by.
    #[must_use]
    pub fn times(&self, groups: &KeyGroupSet) -> Vec<GroupTimes> {
        let by_clock = |range| GroupTimes::new(range, self.event_time, self.processing_time);
        let by_clock: Vec<_> = groups.ranges().iter().copied().map(by_clock).collect();
        united(&by_clock, &narrowed(&self.own_records(), groups))
    }

    fn own_records(&self) -> Vec<GroupTimes> {
        self.own.iter().flat_map(|own| own.iter().map(|own| own.record.clone())).collect()
    }

    /// Makes the rules of groups with these records, where they differ from those of others.
    fn set_own(&mut self, records: Vec<GroupTimes>) {
        let clock = (self.event_time, self.processing_time);
        let own: Vec<_> = records.into_iter().filter_map(|record| Own::new(record, self, clock)).collect();
        self.own = (!own.is_empty()).then(|| Arc::new(own));
    }

    /// Returns these rules for tables that have other numbers.
    pub(crate) fn renumbered(&self, number: impl Fn(TableId) -> TableId + Copy) -> Self {
        if self.tables.is_empty() && self.own.is_none() {
            return self.clone();
        }
        let mut tables: Vec<_> = self.tables.iter().map(|(id, rules)| (number(*id), rules.clone())).collect();
        tables.sort_by_key(|(id, _)| *id);
        let own = self.own.as_ref().map(|own| {
            // Their records stay with their maker: what is sealed needs the rules alone.
            let renumbered = |own: &Own| Own {
                record: GroupTimes { lives: Vec::new(), ..own.record.clone() },
                rules: own.rules.renumbered(number),
            };
            Arc::new(own.iter().map(renumbered).collect())
        });
        Self { tables: Arc::new(tables), own, ..self.clone() }
    }

    /// Returns the rules that hold for a group.
    #[inline]
    #[must_use]
    pub fn of(&self, group: KeyGroup) -> &Self {
        match &self.own {
            None => self,
            Some(own) => own_of(own, group).unwrap_or(self),
        }
    }

    /// Returns these rules at the earliest times of `others`; at no time, when nothing has expired, if there are none.
    /// Records that are ahead of the clock do not count: what has expired by them alone stays, unseen.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn at_earliest<'a>(&self, others: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let earliest = |time: fn(&Self) -> Timestamp| others.clone().map(time).min().unwrap_or(Timestamp::MIN);
        let mut rules = Self {
            event_time: earliest(|rules| rules.event_time),
            processing_time: earliest(|rules| rules.processing_time),
            own: None,
            ..self.clone()
        };
        let bounded = self.own_records().into_iter().filter(|record| !record.lives.is_empty());
        let unbegun = |record| GroupTimes { event_time: Timestamp::MIN, processing_time: Timestamp::MIN, ..record };
        rules.set_own(bounded.map(unbegun).collect());
        rules
    }

    /// Returns the rules of a table that were set.
    #[inline]
    #[must_use]
    pub fn table(&self, table: TableId) -> Option<&TableRules> {
        let at = self.tables.binary_search_by_key(&table, |(id, _)| *id).ok()?;
        self.tables.get(at).map(|(_, rules)| rules)
    }

    /// Returns whether values of a table that carry neither a version nor a stamp read as their bytes, and new ones carry
    /// neither.
    #[inline]
    pub(crate) fn plain(&self, table: TableId) -> bool {
        self.table(table).is_none_or(|rules| rules.ttl.is_none() && rules.version == FIRST_VERSION)
    }

    /// Returns whether rows of any table expire.
    #[must_use]
    pub fn expire(&self) -> bool {
        self.expire
    }

    /// Returns the time that a table expires by.
    #[must_use]
    pub fn now(&self, rules: &TableRules) -> Timestamp {
        if rules.ttl.is_some_and(|ttl| ttl.event_time) { self.event_time } else { self.processing_time }
    }

    /// Returns the version and stamp of what is written to `table` now. Before time begins there is no stamp.
    #[must_use]
    pub fn mark(&self, table: TableId) -> (u32, Option<Timestamp>) {
        match self.table(table) {
            Some(rules) => {
                let now = self.now(rules);
                (rules.version, rules.ttl.filter(|_| now > Timestamp::MIN).map(|_| now))
            }
            None => (FIRST_VERSION, None),
        }
    }
}

impl Own {
    /// Returns the rules of groups with this record; `None` if they are those of all others.
    fn new(record: GroupTimes, all: &Rules, clock: (Timestamp, Timestamp)) -> Option<Self> {
        let mut rules = Rules { own: None, ..all.clone() };
        if !record.lives.is_empty() {
            let tables = Arc::make_mut(&mut rules.tables);
            for (id, table) in tables.iter_mut() {
                table.ttl = table.ttl.map(|ttl| record.life(*id).map_or(ttl, |life| life.before(ttl)));
            }
        }
        let mut own = Self { record, rules };
        own.advance(clock).then_some(own)
    }

    /// Takes note of the clock; false if nothing is left that holds for these groups alone.
    fn advance(&mut self, (event_time, processing_time): (Timestamp, Timestamp)) -> bool {
        self.rules.event_time = self.record.event_time.max(event_time);
        self.rules.processing_time = self.record.processing_time.max(processing_time);
        let ahead = self.record.event_time > event_time || self.record.processing_time > processing_time;
        ahead || !self.record.lives.is_empty()
    }
}

#[inline(never)]
fn own_of(own: &[Own], group: KeyGroup) -> Option<&Rules> {
    let at = own.partition_point(|own| own.record.groups.end <= group.0);
    own.get(at).filter(|own| own.record.groups.contains(group)).map(|own| &own.rules)
}

#[cfg(test)]
mod tests;
