//! How the index grows: a full part gets twice the slots or, once it is as large as a region, is cut into more parts.
//!
//! ```text
//! roomy:  a full part is cut into two                         3/8 to 3/4 of the slots are taken
//! dense:  a full part and its neighbour are cut into three    9/16 to 27/32, nearly always
//! ```
//!
//! Dense parts take two thirds of the memory, in exchange for longer searches and more copying: that pays where the memory
//! left is for records that would else be read from a disk.

use super::super::arena::{Arena, Directory, Storage};
use super::part::{Part, Slot, empty_slots, taken_slots};
use super::{DEPTH_MAX, Index, TAG_BITS};

/// How many slots of a part are taken before it grows, and what is cut then.
#[derive(Debug)]
pub(super) struct Density {
    /// The most slots taken, of 32.
    most: usize,
    /// Whether a part is cut together with a neighbour.
    pairs: bool,
    /// The least entries of the directory for a part that is made by a cut: with more, cuts are more even.
    entries: usize,
}

static ROOMY: Density = Density { most: 24, pairs: false, entries: 1 };
static DENSE: Density = Density { most: 27, pairs: true, entries: 8 };

impl Density {
    pub(super) fn of(arena: &Arena) -> &'static Self {
        if arena.budget().disk().is_some() { &DENSE } else { &ROOMY }
    }

    /// Returns the most slots taken or removed of `slots`.
    pub(super) fn most_of(&self, slots: usize) -> usize {
        slots * self.most / 32
    }

    /// Returns how many parts of `slots` slots have room for `rows` rows and more.
    fn parts_for(rows: usize, slots: usize) -> usize {
        rows.div_ceil(slots * 3 / 4)
    }

    /// Returns the slots of a part, at least `least`, that has room for one row more than `rows`.
    fn slots_for(&self, rows: usize, least: usize) -> usize {
        let mut slots = least;
        while self.most_of(slots) <= rows {
            slots *= 2;
        }
        slots
    }
}

/// What makes room for one more row in a part.
pub(super) enum Growth {
    /// Other slots, so many.
    Resize(usize),
    Cut(Cut),
}

/// Parts whose rows move to others.
pub(super) struct Cut {
    /// The parts, side by side.
    parts: Vec<u32>,
    /// The number of new parts.
    into: usize,
    /// The depth of the directory that is needed for them.
    depth: u32,
}

impl Index {
    /// Returns what makes room for one more row in a full part.
    pub(super) fn growth_of(&self, number: u32) -> Growth {
        let slots = self.part(number).slots_for_one_more();
        let cut = if slots > self.cut_slots() { self.cut_of(number) } else { None };
        cut.map_or(Growth::Resize(slots), Growth::Cut)
    }

    /// Returns how many slots a part has before it is cut: those of a region's block.
    pub(super) fn cut_slots(&self) -> usize {
        self.arena.region_bytes() / size_of::<Slot>()
    }

    /// Returns how to cut a full part; `None` if the directory has no more entries to cut it by.
    fn cut_of(&self, number: u32) -> Option<Cut> {
        let slots = self.cut_slots();
        let mut parts = vec![number];
        if self.density.pairs {
            // A part of many rows with one tag is larger, and stays alone.
            let is_usual = |part: &u32| self.part(*part).slots <= slots;
            let run = self.directory.run(number);
            if run.end < self.directory.len() {
                parts.extend(Some(self.directory.table_at(run.end)).filter(is_usual));
            } else if run.start > 0 {
                parts.splice(..0, Some(self.directory.table_at(run.start - 1)).filter(is_usual));
            }
        }
        let rows = parts.iter().map(|part| self.part(*part).taken).sum();
        let least = if parts.len() == 1 { 2 } else { parts.len() };
        let into = Density::parts_for(rows, slots).max(least);
        let (mut depth, mut entries) = (self.depth, self.directory.run_of_all(&parts).len());
        while entries < into * self.density.entries && depth < DEPTH_MAX {
            (depth, entries) = (depth + 1, 2 * entries);
        }
        (entries >= into).then_some(Cut { parts, into, depth })
    }

    /// Returns how many more bytes of memory the index takes after a cut.
    pub(super) fn cut_bytes(&self, cut: &Cut) -> u64 {
        let part_bytes = self.cut_slots() * size_of::<Slot>();
        let now: usize = cut.parts.iter().map(|part| self.part(*part).slots * size_of::<Slot>()).sum();
        let kept = part_bytes as u64 - self.arena.growth_bytes(part_bytes);
        let words = ((cut.into * part_bytes).saturating_sub(now) as u64).saturating_sub(kept);
        let entries = (self.directory.len() << (cut.depth - self.depth)) - self.directory.len();
        let parts = cut.into - cut.parts.len();
        words + (Directory::growth_bytes(entries, parts) + parts * size_of::<Part>()) as u64
    }

    /// Moves the rows of parts to others, which drops the removed ones.
    pub(super) fn cut(&mut self, cut: &Cut) {
        self.deepen(cut.depth);
        let least = self.cut_slots();
        let new = self.shares(cut).into_iter().map(|(entries, rows)| (entries, self.density.slots_for(rows, least)));
        self.replace(&cut.parts, new.collect());
    }

    /// Returns how many entries and rows each of the new parts gets: side by side, each at least one entry, and about as many
    /// rows as the others.
    fn shares(&self, cut: &Cut) -> Vec<(usize, usize)> {
        let run = self.directory.run_of_all(&cut.parts);
        let mut rows = vec![0; run.len()];
        for slot in cut.parts.iter().flat_map(|part| taken_slots(self.directory.words_of(*part))) {
            rows.get_mut(self.entry_of(slot.tag()) - run.start).into_iter().for_each(|rows| *rows += 1);
        }
        let all = rows.iter().sum::<usize>().max(1);
        let (mut shares, mut before) = (vec![(0, 0); cut.into], 0);
        let mut to = 0;
        for (at, rows) in rows.iter().enumerate() {
            let even = ((before + rows / 2) * cut.into / all).min(cut.into - 1);
            // No part may be left out, and those that follow need an entry each.
            to = even.clamp(to, to + usize::from(at > 0)).max((cut.into + at).saturating_sub(run.len()));
            shares.get_mut(to).into_iter().for_each(|(entries, of_part)| {
                *entries += 1;
                *of_part += rows;
            });
            before += rows;
        }
        shares
    }

    /// Moves the rows of parts, side by side, to new slots.
    ///
    /// * `new`: by part, its entries in the directory and its slots.
    pub(super) fn replace(&mut self, old: &[u32], new: Vec<(usize, usize)>) {
        let words = |(entries, slots): &(usize, usize)| (empty_slots(*slots, &self.arena), *entries);
        let first_new = self.parts.len();
        let old_words = self.directory.replace(old, new.iter().map(words).collect());
        let numbers = old.iter().map(|part| *part as usize).chain(first_new..);
        for (number, (_, slots)) in numbers.zip(new) {
            let part = Part::new(slots, self.density);
            self.slots += slots;
            match self.parts.get_mut(number) {
                Some(old) => self.slots -= std::mem::replace(old, part).slots,
                None => self.parts.push(part),
            }
        }
        for slot in old_words.iter().flat_map(|words: &Storage<u64>| taken_slots(words)) {
            let (part, words) = self.part_mut(self.part_of(slot.tag()));
            part.put(words, slot);
        }
        self.recharge();
    }

    /// Returns the parts of an index for `rows` rows: how many, the slots of each, and the depth of the directory.
    pub(super) fn layout_for(&self, rows: usize) -> (usize, usize, u32) {
        let most = self.cut_slots();
        // Rows spread unevenly over parts: this leaves room in the fullest of many.
        let room = most * 11 / 16;
        if rows <= room {
            let slots = (rows * 4 / 3 + 1).next_power_of_two().clamp(4, most);
            return (1, if rows == 0 { 0 } else { slots }, 0);
        }
        let parts = rows.div_ceil(room);
        let parts = if self.density.pairs { parts } else { parts.next_power_of_two() };
        let entries = (parts * self.density.entries).next_power_of_two().min(1 << DEPTH_MAX);
        (parts.min(entries), most, entries.trailing_zeros())
    }
}

const _: () = assert!(DEPTH_MAX < TAG_BITS, "a tag has bits for the directory");
