//! Loading restored rows: sorted files that RocksDB ingests without rewriting them. Any thread can write the files; the
//! backend's owner has them ingested.

use std::path::PathBuf;
use std::sync::Arc;

use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::cell::put_all;
use super::db::{Db, LoadFolder, rocksdb_error};
use super::longest::LongestRows;
use crate::backend::checks::check_loadable;
use crate::backend::row_key::{encode_row_key, row_bytes};
use crate::error::{Error, Result, broken};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{Fold, FoldedGroup, OwnedPiece, RowBatch, RowSource, Rules};

/// A file ends after the first group that fills it to this size.
const FILE_BYTES: u64 = 64 << 20;

/// Counts of a group's loaded rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loaded {
    pub(super) rows: u64,
    /// Keys, namespaces, sub-keys, values and operands.
    pub(super) live_bytes: u64,
    /// Values and operands alone.
    pub(super) payload_bytes: u64,
}

impl Loaded {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.live_bytes += other.live_bytes;
        self.payload_bytes += other.payload_bytes;
    }
}

/// Rows in files that the database has not taken over. They are deleted if it never does.
pub(super) struct SortedFiles {
    folder: Arc<LoadFolder>,
    paths: Vec<PathBuf>,
    /// What each group has in them.
    pub(super) loaded: Vec<(KeyGroup, Loaded)>,
    pub(super) longest: LongestRows,
}

impl SortedFiles {
    pub(super) fn new(folder: &Arc<LoadFolder>) -> Self {
        Self { folder: Arc::clone(folder), paths: Vec::new(), loaded: Vec::new(), longest: LongestRows::default() }
    }

    /// Writes the rows of `groups` to files.
    ///
    /// # Errors
    /// Errors of the source, the rules and the disk.
    pub(super) fn write(
        folder: &Arc<LoadFolder>,
        rows: &dyn RowSource,
        groups: &KeyGroupSet,
        rules: &Rules,
    ) -> Result<Self> {
        let mut files = Self::new(folder);
        files.add(rows, groups, rules)?;
        Ok(files)
    }

    /// Writes rows of `groups` to more files.
    ///
    /// # Errors
    /// As [`SortedFiles::write`]. The files hold some of the rows then.
    pub(super) fn add(&mut self, rows: &dyn RowSource, groups: &KeyGroupSet, rules: &Rules) -> Result<()> {
        let Self { folder, paths, loaded, longest } = self;
        let mut files = Files { folder, writer: None, paths };
        let (mut batch, mut sorted) = (RowBatch::new(), Sorted::default());
        for group in groups.iter() {
            let mut total = Loaded::default();
            let mut folded = FoldedGroup::new(rows, group, Fold::Base, rules);
            while folded.next_batch(&mut batch)? {
                if total.rows > 0 {
                    // Batches follow segment order, not row key order: each batch needs a file of its own.
                    files.end()?;
                }
                sorted.fill(group, &batch, longest)?;
                total.add(sorted.write(&mut files)?);
            }
            loaded.push((group, total));
            files.end_if_full()?;
        }
        files.end()
    }

    /// Adds the rows to the database, all or none.
    ///
    /// # Errors
    /// `Usage` if the files are another database's; errors of the disk.
    pub(super) fn ingest(&self, db: &Db) -> Result<()> {
        if !Arc::ptr_eq(&self.folder, &db.loads) {
            return Err(Error::usage("groups were loaded for another backend"));
        }
        if self.paths.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let ingested = db.inner().ingest_external_file_opts(&options, self.paths.clone());
        ingested.map_err(|error| rocksdb_error("cannot take over files", error))
    }
}

impl Drop for SortedFiles {
    fn drop(&mut self) {
        // Ingestion has moved them away.
        self.paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

/// One batch of a group as row keys and cells, sorted by row key.
#[derive(Debug, Default)]
struct Sorted {
    bytes: Vec<u8>,
    /// Offsets in `bytes` of each row: start of its row key, start of its cell, end of its cell.
    rows: Vec<[usize; 3]>,
    /// The row key whose pieces are being collected.
    row_key: Vec<u8>,
    /// Buffer for the next row's key.
    next: Vec<u8>,
    pieces: Vec<OwnedPiece>,
    payload_bytes: u64,
}

impl Sorted {
    fn fill(&mut self, group: KeyGroup, batch: &RowBatch, longest: &mut LongestRows) -> Result<()> {
        self.bytes.clear();
        self.rows.clear();
        self.payload_bytes = 0;
        let (mut routing, mut row_bytes) = (None, 0);
        for row in batch.iter() {
            let (piece, _) = check_loadable(&row)?;
            encode_row_key(group, &row.key, &mut self.next);
            // A row's operands follow its value: a new row key ends the previous row.
            if self.next != self.row_key {
                self.end_row(routing)?;
                row_bytes = 0;
                std::mem::swap(&mut self.next, &mut self.row_key);
            }
            routing = row.columns.routing;
            self.payload_bytes += piece.bytes.len() as u64;
            row_bytes += piece.bytes.len() as u64;
            longest.note(row.key.table, row_bytes);
            self.pieces.push(OwnedPiece::of(&piece));
        }
        self.end_row(routing)?;
        let bytes = &self.bytes;
        self.rows.sort_unstable_by(|a, b| bytes.get(a[0]..a[1]).cmp(&bytes.get(b[0]..b[1])));
        Ok(())
    }

    /// Appends the collected pieces, if any, as one row.
    fn end_row(&mut self, routing: Option<u64>) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&self.row_key);
        let cell = self.bytes.len();
        put_all(&mut self.bytes, routing, &self.pieces)?;
        self.rows.push([start, cell, self.bytes.len()]);
        self.pieces.clear();
        Ok(())
    }

    fn write(&self, files: &mut Files<'_>) -> Result<Loaded> {
        let payload_bytes = self.payload_bytes;
        let mut loaded = Loaded { rows: self.rows.len() as u64, live_bytes: payload_bytes, payload_bytes };
        for &[start, cell, end] in &self.rows {
            let (Some(row_key), Some(cell)) = (self.bytes.get(start..cell), self.bytes.get(cell..end)) else {
                broken("a sorted row has its bytes")
            };
            loaded.live_bytes += row_bytes(row_key);
            files.put(row_key, cell)?;
        }
        Ok(loaded)
    }
}

/// Writes files, one at a time.
struct Files<'a> {
    folder: &'a LoadFolder,
    writer: Option<SstFileWriter<'a>>,
    paths: &'a mut Vec<PathBuf>,
}

impl Files<'_> {
    fn put(&mut self, row_key: &[u8], cell: &[u8]) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let path = self.folder.new_file();
                let writer = SstFileWriter::create(self.folder.options());
                self.paths.push(path.clone());
                writer.open(&path).map_err(|error| rocksdb_error("cannot write a file", error))?;
                self.writer.insert(writer)
            }
        };
        writer.put(row_key, cell).map_err(|error| rocksdb_error("cannot write a file", error))
    }

    fn end_if_full(&mut self) -> Result<()> {
        if self.writer.as_ref().is_some_and(|writer| writer.file_size() >= FILE_BYTES) { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        writer.finish().map_err(|error| rocksdb_error("cannot write a file", error))
    }
}
