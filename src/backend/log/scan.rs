//! Going through a group's rows: all of a table, those of one key, those that a clear removes.

use std::ops::RangeBounds;

use crate::error::Result;
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::segment::Rules;

use super::super::{Entry, SubRange};
use super::families::{Members, place_of};
use super::group::{Found, Group, by_key};
use super::index::{Address, tag};
use super::record::{Draft, Place, Record};
use super::region::Half;

impl Group {
    /// Visits the live rows of a table until `visit` returns false; returns whether it never did.
    pub(super) fn scan(
        &self,
        group: KeyGroup,
        table: TableId,
        prefix: &[u8],
        rules: &Rules,
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let mut buffer = Vec::new();
        for address in self.index.addresses().filter(|address| !address.is_link()) {
            let Some(record) = self.regions.record(address) else { continue };
            let place = record.place;
            if place.table != table || record.shape.is_tombstone() || !place.key.starts_with(prefix) {
                continue;
            }
            // Only a value of several pieces needs the row's hash.
            let hash = if record.mark.ordinal == 0 { 0 } else { self.hash(&place) };
            if !self.visit(group, hash, address, rules, &mut buffer, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Visits the live rows of one key and namespace with sub-keys in `range`. `row` is their place without one.
    pub(super) fn scan_key(
        &self,
        group: KeyGroup,
        hash_of: impl Fn(&Place<'_>) -> u32,
        row: &Place<'_>,
        range: SubRange<'_>,
        rules: &Rules,
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let mut buffer = Vec::new();
        let within = |sub: &[u8]| RangeBounds::<[u8]>::contains(&range, sub);
        if !by_key(rules, row.table) {
            for address in self.index.addresses().filter(|address| !address.is_link()) {
                let record = self.regions.record(address).filter(|record| !record.shape.is_tombstone());
                let wanted = |place: &Place<'_>| place.same_family(row) && within(place.sub);
                let Some(record) = record.filter(|record| wanted(&record.place)) else { continue };
                if !self.visit(group, hash_of(&record.place), address, rules, &mut buffer, visit)? {
                    break;
                }
            }
            return Ok(());
        }
        let family = hash_of(row);
        if let Some(found) = self.find(family, row).filter(|_| within(&[]))
            && !self.visit(group, family, found.address, rules, &mut buffer, visit)?
        {
            return Ok(());
        }
        match self.families.as_ref().and_then(|families| families.members(family, row)) {
            None => {}
            Some(Members::Sorted(subs)) => {
                for sub in subs.range(range) {
                    let place = row.with_sub(sub);
                    let hash = hash_of(&place);
                    let Some(found) = self.find(hash, &place) else { continue };
                    if !self.visit(group, hash, found.address, rules, &mut buffer, visit)? {
                        break;
                    }
                }
            }
            Some(members @ Members::Hashed(_)) => {
                for (hash, address) in self.member_rows(row, members) {
                    let in_range = self.regions.record(address).is_some_and(|record| within(record.place.sub));
                    if in_range && !self.visit(group, hash, address, rules, &mut buffer, visit)? {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Visits the row whose newest record lies at `address`, if it is live.
    fn visit(
        &self,
        group: KeyGroup,
        hash: u32,
        address: Address,
        rules: &Rules,
        buffer: &mut Vec<u8>,
        visit: &mut impl FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let Some(record) = self.regions.record(address) else { return Ok(true) };
        let Place { key, namespace, sub, routing, .. } = record.place;
        let Some(value) = self.value_of(hash, &record, rules, buffer)? else { return Ok(true) };
        Ok(visit(Entry { group, key, namespace, sub, value, routing }))
    }

    /// Returns hash and newest record of each member of the family of `row`.
    fn member_rows(&self, row: &Place<'_>, members: &Members) -> Vec<(u32, Address)> {
        match members {
            Members::Hashed(hashes) => {
                let mut rows = Vec::with_capacity(hashes.len());
                let mut repeated = Vec::new();
                for &hash in hashes {
                    let before = rows.len();
                    self.index.find_all(hash, |address| {
                        let record = self.regions.record(address).filter(|_| !address.is_link());
                        let is_member = |place: &Place<'_>| !place.sub.is_empty() && place.same_family(row);
                        if record.is_some_and(|record| !record.shape.is_tombstone() && is_member(&record.place)) {
                            rows.push((hash, address));
                        }
                    });
                    // Rows of one tag are all found under its first occurrence.
                    if rows.len() > before + 1 {
                        if repeated.contains(&tag(hash)) {
                            rows.truncate(before);
                        }
                        repeated.push(tag(hash));
                    }
                }
                rows
            }
            Members::Sorted(subs) => {
                let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
                let found = |sub| {
                    let place = row.with_sub(sub);
                    let hash = self.hash(&place);
                    self.find(hash, &place).map(|found| (hash, found.address))
                };
                subs.range(all).filter_map(found).collect()
            }
        }
    }

    /// Puts the families of a table in order, whose rows came before that was asked for.
    pub(super) fn order(&mut self, table: TableId) {
        let Some(families) = &self.families else { return };
        for identity in families.unordered() {
            let Some(row) = place_of(&identity).filter(|place| place.table == table) else { continue };
            let hash = self.hash(&row);
            let Some(members) = self.families.as_ref().and_then(|families| families.members(hash, &row)) else {
                continue;
            };
            let rows = self.member_rows(&row, members);
            let sub = |&(_, address): &(u32, Address)| Some(Box::from(self.regions.record(address)?.place.sub));
            let subs: Vec<Box<[u8]>> = rows.iter().filter_map(sub).collect();
            if let Some(families) = &mut self.families {
                families.order(hash, &row, &subs);
            }
        }
    }

    /// Makes families of a table's rows, or drops those that it has.
    pub(super) fn group_by_key(&mut self, table: TableId, by_key: bool, rules: &Rules) {
        if let (Some(families), false) = (&mut self.families, by_key) {
            families.drop_table(table);
        }
        if !by_key {
            return;
        }
        let newest = self.index.addresses().filter(|address| !address.is_link());
        let records = newest.filter_map(|address| self.regions.record(address));
        let is_member = |record: &Record<'_>| {
            record.place.table == table && !record.shape.is_tombstone() && !record.place.sub.is_empty()
        };
        let members: Vec<_> = records.filter(is_member).map(|record| record.detached()).collect();
        for record in members.iter().filter_map(|bytes| Record::parse(bytes)) {
            self.note_member(self.hash(&record.place), &record.place, true, rules);
        }
    }

    /// Removes all rows that `scope` covers. One clear takes the place of what the delta would have of them.
    pub(super) fn clear(&mut self, scope: &Place<'_>, rules: &Rules) -> Result<()> {
        let covered = self.covered(scope, rules);
        let lies_below = |(_, address): &(u32, Address)| {
            let record = self.regions.record(*address);
            let pieces = record.is_some_and(|record| record.shape.has_older() || record.mark.ordinal > 0);
            self.regions.half(*address) != Half::Tail || pieces
        };
        let mut churn = 0;
        if covered.iter().any(lies_below) {
            churn += self.write_clear(scope)?;
        }
        for (hash, address) in covered {
            let Some(record) = self.regions.record(address) else { continue };
            let Some((bucket, _)) = self.index.find(hash, |other| other == address) else { continue };
            let bytes = record.detached();
            if let Some(record) = Record::parse(&bytes) {
                churn += self.forget(hash, Found { bucket, address, shape: record.shape }, &record, rules);
            }
        }
        self.index.trim();
        self.pace(churn, rules);
        Ok(())
    }

    /// Returns hash and newest record of each live row that `scope` covers.
    fn covered(&self, scope: &Place<'_>, rules: &Rules) -> Vec<(u32, Address)> {
        if scope.names_key_and_namespace() && by_key(rules, scope.table) {
            let row = Place::without_sub(scope.table.0, scope.key, scope.namespace);
            let family = self.hash(&row);
            let plain = self
                .find(family, &row)
                .filter(|found| self.regions.record(found.address).is_some_and(|record| !record.shape.is_tombstone()));
            let members = self.families.as_ref().and_then(|families| families.members(family, &row));
            let members = members.map(|members| self.member_rows(&row, members)).unwrap_or_default();
            return plain.map(|found| (family, found.address)).into_iter().chain(members).collect();
        }
        let newest = self.index.addresses().filter(|address| !address.is_link());
        let live = newest.filter_map(|address| Some((address, self.regions.record(address)?)));
        let live = live.filter(|(_, record)| !record.shape.is_tombstone() && scope.covers(&record.place));
        live.map(|(address, record)| (self.hash(&record.place), address)).collect()
    }

    /// Writes the clear of `scope`, unless the tail has it, and returns its length.
    fn write_clear(&mut self, scope: &Place<'_>) -> Result<usize> {
        let hash = self.hash(scope);
        let found = self.find(hash, scope);
        if found.is_some_and(|found| self.regions.half(found.address) == Half::Clears) {
            return Ok(0);
        }
        let draft = Draft::gone(*scope, true);
        self.afford(self.index.growth_bytes(hash) + self.regions.growth_bytes(Half::Clears, draft.len()), 0)?;
        let address = self.regions.append(Half::Clears, &draft);
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
