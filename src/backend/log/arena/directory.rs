//! Tables of words, and a directory that leads to them.
//!
//! A directory entry has the address of its table's words, so that a search reads the entry and then the word: no table
//! lies in between.

use std::marker::PhantomData;
use std::ops::Range;
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
    /// Returns a directory that leads to one table.
    pub(in crate::backend::log) fn of(words: Storage<u64>) -> Self {
        Self { entries: vec![Entry::of(0, &words)], tables: vec![Table { words, first: 0, entries: 1 }] }
    }

    /// Returns the bytes of the directory, without its tables' words.
    pub(in crate::backend::log) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.tables.len() * size_of::<Table>()
    }

    /// Returns the bytes that so many more entries and tables take.
    pub(in crate::backend::log) fn growth_bytes(entries: usize, tables: usize) -> usize {
        entries * size_of::<Entry>() + tables * size_of::<Table>()
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

    /// Returns the entries that lead to a table.
    pub(in crate::backend::log) fn run(&self, table: u32) -> Range<usize> {
        let Table { first, entries, .. } = *self.table(table);
        first..first + entries
    }

    fn table(&self, table: u32) -> &Table {
        match self.tables.get(table as usize) {
            Some(table) => table,
            None => no_table(),
        }
    }

    /// Returns a table's words.
    pub(in crate::backend::log) fn words_of(&self, table: u32) -> &[u64] {
        &self.table(table).words
    }

    /// As [`Directory::words_of`], for changes.
    pub(in crate::backend::log) fn words_mut(&mut self, table: u32) -> &mut [u64] {
        match self.tables.get_mut(table as usize) {
            Some(table) => &mut table.words,
            None => no_table(),
        }
    }

    /// Replaces tables whose entries lie side by side by at least as many others, the first of which get their numbers.
    /// Returns the old words.
    ///
    /// * `new`: in order, words, and how many entries lead to them. All have as many entries as the old ones.
    pub(in crate::backend::log) fn replace(
        &mut self,
        old: &[u32],
        new: Vec<(Storage<u64>, usize)>,
    ) -> Vec<Storage<u64>> {
        let run = self.run_of_all(old);
        if new.len() < old.len() || new.iter().map(|(_, entries)| entries).sum::<usize>() != run.len() {
            broken("new tables take the entries of the old ones");
        }
        let (mut first, mut replaced) = (run.start, Vec::with_capacity(old.len()));
        for (at, (words, entries)) in new.into_iter().enumerate() {
            let Ok(next) = u32::try_from(self.tables.len()) else { no_table() };
            let number = old.get(at).copied().unwrap_or(next);
            let entry = Entry::of(number, &words);
            self.entries.iter_mut().skip(first).take(entries).for_each(|old| *old = entry);
            let table = Table { words, first, entries };
            first += entries;
            match self.tables.get_mut(number as usize) {
                Some(old) => replaced.push(std::mem::replace(old, table).words),
                None => self.tables.push(table),
            }
        }
        replaced
    }

    /// Returns the entries that lead to these tables; panics unless they lie side by side, in this order.
    pub(in crate::backend::log) fn run_of_all(&self, tables: &[u32]) -> Range<usize> {
        let mut runs = tables.iter().map(|table| self.run(*table));
        let Some(first) = runs.next() else { no_table() };
        runs.fold(first, |all, next| {
            if next.start != all.end {
                broken("the entries of replaced tables lie side by side");
            }
            all.start..next.end
        })
    }

    /// Makes two entries of each.
    pub(in crate::backend::log) fn double(&mut self) {
        self.entries = self.entries.iter().flat_map(|entry| [*entry; 2]).collect();
        for table in &mut self.tables {
            (table.first, table.entries) = (2 * table.first, 2 * table.entries);
        }
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
