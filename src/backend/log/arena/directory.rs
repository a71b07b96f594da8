//! Tables of words, and a directory that leads to them.
//!
//! A directory entry has the address of its table's words, so that a search reads the entry and then the word: no table
//! lies in between.

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::broken;

use super::Storage;

/// The words of an empty table.
static NO_WORDS: u64 = 0;

/// An entry of a directory: the address of a table's words, their number less one, and the table's number.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: NonNull<u64>,
    mask: u32,
    table: u32,
}

// SAFETY: only `Directory` uses the address, and as it uses the table with this number, which is `Send` and `Sync`.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

impl Entry {
    fn of(table: u32, words: &Storage<u64>) -> Self {
        let (start, len) = if words.is_empty() { (NonNull::from(&NO_WORDS), 1) } else { (words.start(), words.len()) };
        match u32::try_from(len - 1) {
            Ok(mask) if len.is_power_of_two() => Self { start, mask, table },
            _ => broken("a table has a power of two of words"),
        }
    }
}

/// The words of a table, one 0 if it is empty.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::log) struct Words<'a> {
    start: NonNull<u64>,
    mask: usize,
    lent: PhantomData<&'a [u64]>,
}

impl Words<'_> {
    /// Returns a position within the table, counted on from its start once it is behind the end.
    #[inline(always)]
    pub(in crate::backend::log) fn wrapped(self, at: usize) -> usize {
        at & self.mask
    }

    /// Returns the word at this position, wrapped.
    #[inline(always)]
    pub(in crate::backend::log) fn get(&self, at: usize) -> &u64 {
        // SAFETY: `start` points at `mask + 1` initialised words, a power of two, lent for `'a`. So the position is theirs.
        unsafe { self.start.add(self.wrapped(at)).as_ref() }
    }
}

/// The words of a table, and the entries that lead to it.
#[derive(Debug)]
struct Table {
    words: Storage<u64>,
    first: usize,
    entries: usize,
}

/// Tables of a power of two of words each, or none, and a directory of entries, each of which leads to one of them.
///
/// Invariant: a table knows the run of entries that lead to it, and they have the address and the number of its words. Words
/// are lent for changes of their values only; a table that gets other words has its entries renewed.
#[derive(Debug)]
pub(in crate::backend::log) struct Directory {
    entries: Vec<Entry>,
    tables: Vec<Table>,
}

impl Directory {
    /// Returns a directory with an entry for each table.
    pub(in crate::backend::log) fn of(tables: Vec<Storage<u64>>) -> Self {
        let entries = (0..).zip(&tables).map(|(table, words)| Entry::of(table, words)).collect();
        let tables = (0..).zip(tables).map(|(first, words)| Table { words, first, entries: 1 }).collect();
        Self { entries, tables }
    }

    /// Returns the bytes of the directory, without its tables' words.
    pub(in crate::backend::log) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.tables.len() * size_of::<Table>()
    }

    /// Returns the bytes that `entries` more entries and a table take.
    pub(in crate::backend::log) fn growth_bytes(entries: usize) -> usize {
        entries * size_of::<Entry>() + size_of::<Table>()
    }

    /// Returns the number of entries.
    pub(in crate::backend::log) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline(always)]
    fn entry(&self, at: usize) -> &Entry {
        match self.entries.get(at) {
            Some(entry) => entry,
            None => no_table(),
        }
    }

    /// Returns the words of the table that an entry leads to.
    #[inline(always)]
    pub(in crate::backend::log) fn words(&self, at: usize) -> Words<'_> {
        let Entry { start, mask, .. } = *self.entry(at);
        Words { start, mask: mask as usize, lent: PhantomData }
    }

    /// Returns the number of the table that an entry leads to.
    #[inline]
    pub(in crate::backend::log) fn table_at(&self, at: usize) -> u32 {
        self.entry(at).table
    }

    /// Returns a table's words.
    pub(in crate::backend::log) fn table_mut(&mut self, table: u32) -> &mut [u64] {
        match self.tables.get_mut(table as usize) {
            Some(table) => &mut table.words,
            None => no_table(),
        }
    }

    /// Replaces a table's words; returns the old ones.
    pub(in crate::backend::log) fn replace(&mut self, table: u32, words: Storage<u64>) -> Storage<u64> {
        let entry = Entry::of(table, &words);
        let Some(table) = self.tables.get_mut(table as usize) else { no_table() };
        self.entries.iter_mut().skip(table.first).take(table.entries).for_each(|old| *old = entry);
        std::mem::replace(&mut table.words, words)
    }

    /// Makes two entries of each.
    pub(in crate::backend::log) fn double(&mut self) {
        self.entries = self.entries.iter().flat_map(|entry| [*entry; 2]).collect();
        for table in &mut self.tables {
            (table.first, table.entries) = (2 * table.first, 2 * table.entries);
        }
    }

    /// Adds a table, which gets the upper half of another one's entries; returns its number.
    pub(in crate::backend::log) fn halve(&mut self, table: u32, words: Storage<u64>) -> u32 {
        let Ok(new) = u32::try_from(self.tables.len()) else { no_table() };
        let Some(old) = self.tables.get_mut(table as usize).filter(|table| table.entries > 1) else { no_table() };
        let entries = old.entries / 2;
        old.entries -= entries;
        let (entry, first) = (Entry::of(new, &words), old.first + old.entries);
        self.entries.iter_mut().skip(first).take(entries).for_each(|old| *old = entry);
        self.tables.push(Table { words, first, entries });
        new
    }

    /// Returns the words of all tables.
    pub(in crate::backend::log) fn tables(&self) -> impl Iterator<Item = &[u64]> {
        self.tables.iter().map(|table| &*table.words)
    }
}

#[cold]
fn no_table() -> ! {
    broken("a directory leads to its tables")
}
