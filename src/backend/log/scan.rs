//! Scans and clears: all rows of a table, the rows of one key, the rows that a clear covers.

use std::ops::RangeBounds;

use crate::error::{Result, broken};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::Rules;

use super::super::{ALL_SUBS, Entry, SubRange};
use super::batch::PREFETCHED_ROWS;
use super::clean::parse_copy;
use super::families::{Members, place_of};
use super::group::{Found, Group, has_families};
use super::index::{Address, row_hash, tag};
use super::record::{Draft, Place, Record};
use super::region::Section;
use super::row_hashes::RowHashes;

/// Visits the live rows of a group.
pub(super) struct LiveVisitor<'a, F> {
    pub(super) group: KeyGroup,
    pub(super) rules: &'a Rules,
    /// Buffer for values whose stored bytes differ from what a read returns.
    pub(super) buffer: Vec<u8>,
    pub(super) visit: &'a mut F,
}

impl<F: FnMut(Entry<'_>) -> bool> LiveVisitor<'_, F> {
    /// Visits the row with this newest record if it is live. Returns whether to continue.
    fn visit(&mut self, group: &Group, record: &Record<'_>) -> Result<bool> {
        let Place { key, namespace, sub, routing, .. } = record.place;
        // Only a value in pieces needs the row's hash.
        let hash = if record.meta.is_chained() { group.hash(&record.place) } else { 0 };
        let Some(value) = group.value_of(hash, record, self.rules, &mut self.buffer)? else { return Ok(true) };
        Ok((self.visit)(Entry { group: self.group, key, namespace, sub, value, routing }))
    }
}

impl Group {
    /// Visits the live rows of a table whose keys start with `prefix`. Returns whether the scan reached the end.
    pub(super) fn scan(
        &self,
        table: TableId,
        prefix: &[u8],
        mut visitor: LiveVisitor<'_, impl FnMut(Entry<'_>) -> bool>,
    ) -> Result<bool> {
        for address in self.index.addresses() {
            let record = self.regions.record(address);
            let place = record.place;
            if place.table != table || record.shape.is_tombstone() || !place.key.starts_with(prefix) {
                continue;
            }
            if !visitor.visit(self, &record)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Visits the live rows of one key and namespace with sub-keys in `range`. `row` is their place without a sub-key.
    pub(super) fn scan_key(
        &self,
        key_hash: u64,
        row: &Place<'_>,
        range: SubRange<'_>,
        mut visitor: LiveVisitor<'_, impl FnMut(Entry<'_>) -> bool>,
    ) -> Result<()> {
        let within = |sub: &[u8]| RangeBounds::<[u8]>::contains(&range, sub);
        if !has_families(visitor.rules, row.table) {
            for address in self.index.addresses() {
                let record = self.regions.record(address);
                let wanted = |place: &Place<'_>| place.same_family(row) && within(place.sub);
                if !record.shape.is_tombstone() && wanted(&record.place) && !visitor.visit(self, &record)? {
                    break;
                }
            }
            return Ok(());
        }
        let family = row_hash(key_hash, row);
        if self.may_have_rows_without_subs(row.table)
            && within(&[])
            && let Some((_, record)) = self.find_record(family, row)
            && !visitor.visit(self, &record)?
        {
            return Ok(());
        }
        let members = self.families.as_ref().and_then(|families| families.members(family, row));
        members.map_or(Ok(()), |members| {
            self.each_member(key_hash, row, members, range, |_, _, record| visitor.visit(self, record))
        })
    }

    /// Calls `visit` with hash, address and newest record of each member of the family of `row` with a sub-key in
    /// `range`, until it returns false.
    fn each_member(
        &self,
        key_hash: u64,
        row: &Place<'_>,
        members: &Members,
        range: SubRange<'_>,
        visit: impl FnMut(u32, Address, &Record<'_>) -> Result<bool>,
    ) -> Result<()> {
        match members {
            Members::Hashed(hashes) => self.each_hashed(row, hashes, range, visit),
            Members::Sorted(subs) => self.each_sorted(key_hash, row, subs.range(range), visit),
        }
    }

    /// As [`Group::each_member`], for hashed members.
    fn each_hashed(
        &self,
        row: &Place<'_>,
        hashes: &RowHashes,
        range: SubRange<'_>,
        mut visit: impl FnMut(u32, Address, &Record<'_>) -> Result<bool>,
    ) -> Result<()> {
        let (mut others, mut repeated) = (Vec::new(), Vec::new());
        let (mut window, mut left) = ([0; PREFETCHED_ROWS], hashes.iter());
        loop {
            let mut filled = 0;
            for (to, hash) in window.iter_mut().zip(&mut left) {
                *to = hash;
                filled += 1;
            }
            let hashes = || window.iter().copied().take(filled);
            self.prefetch(hashes());
            for hash in hashes() {
                let mut first = None;
                others.clear();
                for (_, address) in self.index.hits(hash) {
                    let record = self.regions.record(address);
                    let is_member = |place: &Place<'_>| !place.sub.is_empty() && place.same_family(row);
                    if record.shape.is_tombstone() || !is_member(&record.place) {
                        continue;
                    }
                    match first {
                        None => first = Some((address, record)),
                        Some(_) => others.push((address, record)),
                    }
                }
                if first.is_none() {
                    no_record();
                }
                // The first hash with a tag finds all rows with that tag.
                if !others.is_empty() && repeated.contains(&tag(hash)) {
                    continue;
                }
                repeated.extend((!others.is_empty()).then_some(tag(hash)));
                for (address, record) in first.iter().chain(&others) {
                    let in_range = RangeBounds::<[u8]>::contains(&range, record.place.sub);
                    if in_range && !visit(hash, *address, record)? {
                        return Ok(());
                    }
                }
            }
            if filled < window.len() {
                return Ok(());
            }
        }
    }

    /// As [`Group::each_member`], for sorted members.
    fn each_sorted<'s>(
        &self,
        key_hash: u64,
        row: &Place<'_>,
        mut subs: impl Iterator<Item = &'s [u8]>,
        mut visit: impl FnMut(u32, Address, &Record<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut window = [(0, &[][..]); PREFETCHED_ROWS];
        // A visitor that wants more than the first row will want many.
        let mut ahead = 1;
        loop {
            let mut filled = 0;
            for (to, sub) in window.iter_mut().take(ahead).zip(&mut subs) {
                *to = (row_hash(key_hash, &row.with_sub(sub)), sub);
                filled += 1;
            }
            let rows = || window.iter().copied().take(filled);
            if filled > 1 {
                self.prefetch(rows().map(|(hash, _)| hash));
            }
            for (hash, sub) in rows() {
                let Some((address, record)) = self.find_record(hash, &row.with_sub(sub)) else { no_record() };
                if !visit(hash, address, &record)? {
                    return Ok(());
                }
            }
            if filled < ahead {
                return Ok(());
            }
            ahead = (ahead * 4).min(PREFETCHED_ROWS);
        }
    }

    /// Returns hash and newest record's address of each member of the family of `row`.
    fn member_rows(&self, row: &Place<'_>, members: &Members) -> Vec<(u32, Address)> {
        let mut rows = Vec::new();
        let all = self.each_member(self.key_hash(row), row, members, ALL_SUBS, |hash, address, _| {
            rows.push((hash, address));
            Ok(true)
        });
        if all.is_err() {
            broken("collecting does not fail");
        }
        rows
    }

    /// Sorts the families of a table that was not ordered when its rows were written.
    pub(super) fn order(&mut self, table: TableId) {
        let Some(mut families) = self.families.take() else { return };
        for identity in families.unordered() {
            let row = place_of(&identity);
            if row.table != table {
                continue;
            }
            let hash = self.hash(&row);
            let Some(members) = families.members(hash, &row) else { broken("an unordered family exists") };
            let rows = self.member_rows(&row, members);
            let subs: Vec<Box<[u8]>> =
                rows.iter().map(|(_, address)| self.regions.record(*address).place.sub.into()).collect();
            families.order(hash, &row, &subs);
        }
        self.families = Some(families);
    }

    /// Builds or drops the families of a table.
    pub(super) fn group_by_key(&mut self, table: TableId, by_key: bool, rules: &Rules) {
        if let (Some(families), false) = (&mut self.families, by_key) {
            families.drop_table(table);
        }
        if !by_key {
            return;
        }
        let records = self.index.addresses().map(|address| self.regions.record(address));
        let is_member = |record: &Record<'_>| {
            record.place.table == table && !record.shape.is_tombstone() && !record.place.sub.is_empty()
        };
        let members: Vec<_> = records.filter(is_member).map(|record| record.encode()).collect();
        for record in members.iter().map(|bytes| parse_copy(bytes)) {
            self.note_member(self.hash(&record.place), &record.place, true, rules);
        }
    }

    /// Removes all rows that `scope` covers. One clear takes the place of their tombstones in the delta.
    pub(super) fn clear(&mut self, scope: &Place<'_>, rules: &Rules) -> Result<()> {
        let covered = self.covered(scope, rules);
        let lies_below = |(_, address): &(u32, Address)| {
            let record = self.regions.record(*address);
            self.regions.section(*address) != Section::Tail || record.shape.has_older() || record.meta.is_chained()
        };
        let mut churn = 0;
        if covered.iter().any(lies_below) {
            churn += self.write_clear(scope)?;
        }
        for (hash, address) in covered {
            let bytes = self.regions.record(address).encode();
            let (bucket, _) = self.index.find(hash, |other| other == address).unwrap_or_else(|| no_record());
            let record = parse_copy(&bytes);
            churn += self.remove_row(hash, Found { bucket, address, shape: record.shape }, &record, rules);
        }
        self.index.trim();
        self.maintain(churn, rules);
        Ok(())
    }

    /// Returns hash and newest record's address of each live row that `scope` covers.
    fn covered(&self, scope: &Place<'_>, rules: &Rules) -> Vec<(u32, Address)> {
        if scope.names_key_and_namespace() && has_families(rules, scope.table) {
            let row = Place::without_sub(scope.table.0, scope.key, scope.namespace);
            let family = self.hash(&row);
            let plain = self.find(family, &row).filter(|found| !found.shape.is_tombstone());
            let members = self.families.as_ref().and_then(|families| families.members(family, &row));
            let members = members.map(|members| self.member_rows(&row, members)).unwrap_or_default();
            return plain.map(|found| (family, found.address)).into_iter().chain(members).collect();
        }
        let live = self.index.addresses().map(|address| (address, self.regions.record(address)));
        let live = live.filter(|(_, record)| !record.shape.is_tombstone() && scope.covers(&record.place));
        live.map(|(address, record)| (self.hash(&record.place), address)).collect()
    }

    /// Writes the clear of `scope`, unless the tail has it already. Returns its length.
    fn write_clear(&mut self, scope: &Place<'_>) -> Result<usize> {
        let hash = self.hash(scope);
        let found = self.find(hash, scope);
        if found.is_some_and(|found| self.regions.section(found.address) == Section::Clears) {
            return Ok(0);
        }
        let draft = Draft::without_value(*scope, true);
        self.check_budget(self.index.growth_bytes(hash) + self.regions.growth_bytes(Section::Clears, draft.len()), 0)?;
        let address = self.regions.append(Section::Clears, &draft);
        match found {
            Some(older) => {
                self.regions.supersede(older.address, &older.shape);
                self.index.point(older.bucket, address);
            }
            None => self.index.insert(hash, address),
        }
        Ok(draft.len())
    }
}

#[cold]
fn no_record() -> ! {
    broken("a member of a family or a cleared row is in the index")
}
