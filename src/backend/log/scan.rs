//! Scans and clears: all rows of a table, the rows of one key, the rows that a clear covers.

use std::ops::RangeBounds;

use crate::error::{Result, broken};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::Rules;

use super::super::{ALL_SUBS, Entry, SubRange};
use super::batch::PREFETCHED_ROWS;
use super::chunk::{record_in, records};
use super::clean::parse_copy;
use super::families::{Members, place_of};
use super::fetch::Fetched;
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
        let fetched = if record.meta.is_chained() { group.fetch([hash])? } else { Fetched::default() };
        let value = group.value_of(hash, record, self.rules, (&mut self.buffer, &fetched))?;
        let Some(value) = value else { return Ok(true) };
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
        self.each_row(|_, record| {
            let is_wanted = record.place.table == table && record.place.key.starts_with(prefix);
            if is_wanted { visitor.visit(self, record) } else { Ok(true) }
        })
    }

    /// Calls `visit` with address and newest record of each row, tombstones left out, until it returns false. Those in memory
    /// come first; what lies on disk is read region by region. Returns whether `visit` always returned true.
    fn each_row(&self, mut visit: impl FnMut(Address, &Record<'_>) -> Result<bool>) -> Result<bool> {
        for address in self.index.addresses() {
            let Some(bytes) = self.regions.bytes_in_memory(address) else { continue };
            let record = record_in(bytes);
            if !record.shape.is_tombstone() && !visit(address, &record)? {
                return Ok(false);
            }
        }
        for &id in &self.regions.run(Section::Disk).order {
            let region = self.regions.region(id);
            if !region.is_on_disk() {
                continue;
            }
            for (offset, record) in records(&region.bytes()?) {
                let address = Address::new(id, offset);
                let is_newest = || self.index.find(self.hash(&record.place), |other| other == address).is_some();
                if !record.shape.is_dead() && !record.shape.is_tombstone() && is_newest() && !visit(address, &record)? {
                    return Ok(false);
                }
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
            let is_wanted = |place: &Place<'_>| place.same_family(row) && within(place.sub);
            let visit = |_, record: &Record<'_>| {
                if is_wanted(&record.place) { visitor.visit(self, record) } else { Ok(true) }
            };
            return self.each_row(visit).map(|_| ());
        }
        let family = row_hash(key_hash, row);
        if self.may_have_rows_without_subs(row.table)
            && within(&[])
            && let fetched = self.fetch([family])?
            && let Some((_, record)) = self.find_record(family, row, &fetched)
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
        let mut repeated = Vec::new();
        let (mut window, mut left) = ([0; PREFETCHED_ROWS], hashes.iter());
        loop {
            let mut filled = 0;
            for (to, hash) in window.iter_mut().zip(&mut left) {
                *to = hash;
                filled += 1;
            }
            let hashes = || window.iter().copied().take(filled);
            self.prefetch(hashes());
            let fetched = self.fetch(hashes())?;
            let mut others = Vec::new();
            for hash in hashes() {
                let mut first = None;
                others.clear();
                for (_, address) in self.index.hits(hash) {
                    let record = self.regions.record(address, &fetched);
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
            let fetched = self.fetch(rows().map(|(hash, _)| hash))?;
            for (hash, sub) in rows() {
                let Some((address, record)) = self.find_record(hash, &row.with_sub(sub), &fetched) else { no_record() };
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

    /// Sorts the families of a table that was not ordered when its rows were written.
    ///
    /// # Errors
    /// Those of reading the disk: then families may be left unsorted.
    pub(super) fn order(&mut self, table: TableId) -> Result<()> {
        for identity in self.families.iter().flat_map(|families| families.unordered()).collect::<Vec<_>>() {
            let row = place_of(&identity);
            if row.table != table {
                continue;
            }
            let hash = self.hash(&row);
            let members = self.families.as_ref().and_then(|families| families.members(hash, &row));
            let Some(members) = members else { broken("an unordered family exists") };
            let mut subs = Vec::<Box<[u8]>>::new();
            self.each_member(self.key_hash(&row), &row, members, ALL_SUBS, |_, _, record| {
                subs.push(record.place.sub.into());
                Ok(true)
            })?;
            self.families.iter_mut().for_each(|families| families.order(hash, &row, &subs));
        }
        Ok(())
    }

    /// Builds or drops the families of a table.
    ///
    /// # Errors
    /// Those of reading the disk: then no family was built.
    pub(super) fn group_by_key(&mut self, table: TableId, by_key: bool, rules: &Rules) -> Result<()> {
        if let (Some(families), false) = (&mut self.families, by_key) {
            families.drop_table(table);
        }
        if !by_key {
            return Ok(());
        }
        let mut members = Vec::new();
        self.each_row(|_, record| {
            if record.place.table == table && !record.place.sub.is_empty() {
                members.push(Draft::without_value(record.place, false).encode());
            }
            Ok(true)
        })?;
        for record in members.iter().map(|bytes| parse_copy(bytes)) {
            self.note_member(self.hash(&record.place), &record.place, true, rules);
        }
        Ok(())
    }

    /// Removes all rows that `scope` covers. One clear takes the place of their tombstones in the delta.
    pub(super) fn clear(&mut self, scope: &Place<'_>, rules: &Rules) -> Result<()> {
        let covered = self.covered(scope, rules)?;
        let lies_below = |row: &CoveredRow| match &row.on_disk {
            Some(_) => true,
            None => {
                let record = self.regions.record(row.address, &Fetched::default()).shape.has_older();
                record || self.regions.section(row.address) != Section::Tail
            }
        };
        let mut churn = 0;
        if covered.iter().any(lies_below) {
            churn += self.write_clear(scope)?;
        }
        for CoveredRow { hash, address, on_disk } in covered {
            let (row, fetched) = match on_disk {
                Some(on_disk) => *on_disk,
                None => (self.regions.record(address, &Fetched::default()).encode(), Fetched::default()),
            };
            let (bucket, _) = self.index.find(hash, |other| other == address).unwrap_or_else(|| no_record());
            let record = parse_copy(&row);
            let found = Found { bucket, address, shape: record.shape };
            churn += self.remove_row(hash, (found, &fetched), &record, rules);
        }
        self.index.trim();
        self.maintain(churn, rules);
        Ok(())
    }

    /// Returns the live rows that `scope` covers.
    fn covered(&self, scope: &Place<'_>, rules: &Rules) -> Result<Vec<CoveredRow>> {
        let mut covered = Vec::new();
        if scope.names_key_and_namespace() && has_families(rules, scope.table) {
            let row = Place::without_sub(scope.table.0, scope.key, scope.namespace);
            let family = self.hash(&row);
            let fetched = self.fetch([family])?;
            if let Some((address, record)) = self.find_record(family, &row, &fetched)
                && !record.shape.is_tombstone()
            {
                covered.push(self.covered_row(family, address, &record)?);
            }
            let members = self.families.as_ref().and_then(|families| families.members(family, &row));
            if let Some(members) = members {
                self.each_member(self.key_hash(&row), &row, members, ALL_SUBS, |hash, address, record| {
                    covered.push(self.covered_row(hash, address, record)?);
                    Ok(true)
                })?;
            }
            return Ok(covered);
        }
        self.each_row(|address, record| {
            if scope.covers(&record.place) {
                covered.push(self.covered_row(self.hash(&record.place), address, record)?);
            }
            Ok(true)
        })?;
        Ok(covered)
    }

    /// Returns a covered row. What of it lies on disk is kept, so that nothing can fail once rows are removed.
    fn covered_row(&self, hash: u32, address: Address, record: &Record<'_>) -> Result<CoveredRow> {
        let in_memory = self.regions.bytes_in_memory(address).is_some();
        let on_disk = match in_memory && !record.meta.is_chained() {
            true => None,
            false => {
                let fetched = if record.meta.is_chained() { self.fetch([hash])? } else { Fetched::default() };
                Some(Box::new((record.encode(), fetched)))
            }
        };
        Ok(CoveredRow { hash, address, on_disk })
    }

    /// Writes the clear of `scope`, unless the tail has it already. Returns its length.
    fn write_clear(&mut self, scope: &Place<'_>) -> Result<usize> {
        let hash = self.hash(scope);
        let fetched = self.fetch([hash])?;
        let found = self.find(hash, scope, &fetched);
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

/// A row that is being cleared.
struct CoveredRow {
    hash: u32,
    address: Address,
    /// A copy of its newest record, and what lies on disk of the others, if it may lie there or is in pieces.
    on_disk: Option<Box<(Vec<u8>, Fetched)>>,
}

#[cold]
fn no_record() -> ! {
    broken("a member of a family or a cleared row is in the index")
}
