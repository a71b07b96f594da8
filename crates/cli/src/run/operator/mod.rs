//! The operator of one subtask: records in, result rows out, all state in the backend.

mod row;

use std::collections::BTreeSet;

use alluvium::backend::{Change, Entry, RowRef, StateBackend, Write};
use alluvium::manifest::{StateKind, TableSchema};
use alluvium::{CurrentKey, Error, Partitioner, Result, Schema, TableId};
use csv::StringRecord;

use self::row::{Layout, struct_expression};
use super::columns::Column;
use super::output::OutputRow;
use super::program::{Emit, Program};
use super::record::{Record, RecordBatch, decode_key};
use super::window::{Rfc3339, Window, namespace, start_of};

/// A keyed aggregation. Its state is one row of accumulators per key and window, and one row per key, window and cell
/// for each distinct aggregate.
#[derive(Debug)]
pub(crate) struct Operator {
    layout: Layout,
    /// The table with one row of accumulators per key and window.
    accumulators: TableId,
    distinct: Vec<DistinctTable>,
    key_columns: Vec<String>,
    partitioner: Partitioner,
    max_parallelism: u16,
    /// With `--emit on-close`: the windows, and the starts of windows with rows.
    open_windows: Option<(Window, BTreeSet<i64>)>,
    windowed: bool,
    /// For each distinct table, whether the current record's cell is new.
    new_cells: Vec<bool>,
}

/// A table with one row per key, window and cell of a column.
#[derive(Debug)]
struct DistinctTable {
    id: TableId,
    column: usize,
    name: String,
}

impl Operator {
    /// Returns the operator of a program.
    ///
    /// # Errors
    /// `Config` if there are too many aggregates.
    pub(crate) fn new(program: &Program, partitioner: Partitioner, max_parallelism: u16) -> Result<Self> {
        let columns = Column::of(&program.agg);
        let layout = Layout::new(&program.agg, &columns)?;
        let accumulators = TableId(0);
        let ids = (accumulators.0 + 1..).map(TableId);
        let distinct = layout.distinct().zip(ids).filter_map(|(column, id)| {
            let name = format!("distinct_{}", columns.get(column)?.name);
            Some(DistinctTable { id, column, name })
        });
        let window = program.window.clone().filter(|_| program.emit == Emit::OnClose);
        Ok(Self {
            distinct: distinct.collect(),
            layout,
            accumulators,
            key_columns: program.key.clone(),
            partitioner,
            max_parallelism,
            open_windows: window.map(|window| (window, BTreeSet::new())),
            windowed: program.window.is_some(),
            new_cells: Vec::new(),
        })
    }

    /// Returns the schema of a program's keys.
    pub(crate) fn key_schema(program: &Program) -> Schema {
        key_schema(&program.key)
    }

    /// Declares the operator's tables with `declare`, which returns each table's id in the job.
    ///
    /// # Errors
    /// As `declare`.
    pub(crate) fn declare(&mut self, mut declare: impl FnMut(TableSchema) -> Result<TableId>) -> Result<()> {
        let tables = self.tables();
        let ids = std::iter::once(&mut self.accumulators).chain(self.distinct.iter_mut().map(|table| &mut table.id));
        ids.zip(tables).try_for_each(|(id, table)| declare(table).map(|declared| *id = declared))
    }

    /// Returns the operator's tables, with schemas that the offline tools can decode.
    pub(crate) fn tables(&self) -> Vec<TableSchema> {
        let key = key_schema(&self.key_columns);
        let table = |id, name: &str, kind, sub, value| TableSchema {
            id,
            name: name.to_owned(),
            kind,
            key: key.clone(),
            namespace: if self.windowed { Schema::new("ordered:i64") } else { Schema::unit() },
            sub,
            value,
            ttl: None,
            merge_operator: None,
        };
        let row = Schema::new(format!("postcard:{}", self.layout.expression()));
        let mut tables = vec![table(self.accumulators, "aggregates", StateKind::Aggregating, Schema::unit(), row)];
        tables.extend(
            self.distinct.iter().map(|d| table(d.id, &d.name, StateKind::Map, Schema::new("utf8"), Schema::unit())),
        );
        tables
    }

    /// Adds records to the state, in order.
    ///
    /// # Errors
    /// `Input` if a sum overflows; `Limit` if the state does not fit; `Corrupt` if stored rows do not
    /// decode as this operator's.
    ///
    /// * `after_first`: called once the first record is in the state.
    pub(crate) fn apply_batch<B: StateBackend>(
        &mut self,
        backend: &mut B,
        batch: &RecordBatch,
        after_first: impl FnOnce(),
    ) -> Result<()> {
        let mut records = batch.iter();
        if let Some((key, record)) = records.next() {
            self.apply(backend, &key, record)?;
            after_first();
        }
        records.try_for_each(|(key, record)| self.apply(backend, &key, record))
    }

    /// Adds a record to the state.
    fn apply<B: StateBackend>(&mut self, backend: &mut B, key: &CurrentKey<'_>, record: Record<'_>) -> Result<()> {
        let window = record.window.map(namespace);
        let namespace = window.as_ref().map_or(&[][..], |bytes| bytes);
        self.new_cells.clear();
        for table in &self.distinct {
            let cell = record.cell(table.column);
            let row = RowRef { table: table.id, key, namespace, sub: cell.text.as_bytes() };
            let add = |old: Option<&[u8]>, _: &mut Vec<u8>| match old {
                Some(_) => (Change::Keep, false),
                None => (Change::Put, true),
            };
            self.new_cells.push(!cell.is_null() && backend.update(row, add)?);
        }
        let (layout, new_cells) = (&self.layout, &self.new_cells);
        let row = RowRef { table: self.accumulators, key, namespace, sub: &[] };
        let first = backend.update(row, |old, out| match layout.fold(old, record, new_cells, out) {
            Ok(()) => (Change::Put, Ok(old.is_none())),
            Err(error) => (Change::Keep, Err(error)),
        })?;
        let first = first.map_err(|error| error.with("key", self.key_text(key.bytes)))?;
        if let (true, Some((_, open)), Some(start)) = (first, &mut self.open_windows, record.window) {
            open.insert(start);
        }
        Ok(())
    }

    /// Rebuilds the set of open windows from restored state.
    ///
    /// # Errors
    /// `Corrupt` if stored rows do not decode as this operator's.
    pub(crate) fn recover_open_windows<B: StateBackend>(&mut self, backend: &mut B) -> Result<()> {
        let Some((_, open)) = &mut self.open_windows else { return Ok(()) };
        open.clear();
        visit(backend, self.accumulators, |entry| {
            open.insert(start_of(entry.namespace)?);
            Ok(())
        })
    }

    /// Returns the results of all keys and windows.
    ///
    /// # Errors
    /// `Corrupt` if stored rows do not decode as this operator's.
    pub(crate) fn results<B: StateBackend>(&self, backend: &mut B) -> Result<Vec<OutputRow>> {
        self.results_where(backend, |_| true)
    }

    /// Removes the windows closed at `watermark` from the state and returns their results. Without `--emit on-close` no
    /// window ever closes.
    ///
    /// Costs a scan of all state if a window closes, else nothing.
    ///
    /// # Errors
    /// `Corrupt` if stored rows do not decode as this operator's.
    pub(crate) fn close<B: StateBackend>(&mut self, backend: &mut B, watermark: i64) -> Result<Vec<OutputRow>> {
        let Some((window, open)) = &mut self.open_windows else { return Ok(Vec::new()) };
        let is_closed = |start: i64| window.closed(start, watermark);
        if !open.first().is_some_and(|start| is_closed(*start)) {
            return Ok(Vec::new());
        }
        open.retain(|start| !is_closed(*start));
        let window = window.clone();
        let is_closed = |start: Option<i64>| start.is_some_and(|start| window.closed(start, watermark));
        let rows = self.results_where(backend, is_closed)?;
        for table in std::iter::once(self.accumulators).chain(self.distinct.iter().map(|table| table.id)) {
            self.remove_where(backend, table, is_closed)?;
        }
        Ok(rows)
    }

    fn results_where<B: StateBackend>(
        &self,
        backend: &mut B,
        wanted: impl Fn(Option<i64>) -> bool,
    ) -> Result<Vec<OutputRow>> {
        let mut rows = Vec::new();
        visit(backend, self.accumulators, |entry| {
            let window = self.window_of(entry.namespace)?;
            if wanted(window) {
                let mut cells = StringRecord::from(decode_key(entry.key, self.key_columns.len())?);
                if let Some(start) = window {
                    cells.push_field(&Rfc3339(start).to_string());
                }
                self.layout.finish(entry.value, &mut cells)?;
                rows.push(OutputRow { cells, window });
            }
            Ok(())
        })?;
        Ok(rows)
    }

    fn remove_where<B: StateBackend>(
        &self,
        backend: &mut B,
        table: TableId,
        unwanted: impl Fn(Option<i64>) -> bool,
    ) -> Result<()> {
        let mut places = Vec::new();
        visit(backend, table, |entry| {
            if unwanted(self.window_of(entry.namespace)?) {
                places.push([entry.key, entry.namespace, entry.sub].map(Box::<[u8]>::from));
            }
            Ok(())
        })?;
        for [key, namespace, sub] in &places {
            let key = self.partitioner.locate(key, 0, self.max_parallelism);
            backend.write(RowRef { table, key: &key, namespace, sub }, Write::Delete)?;
        }
        Ok(())
    }

    fn window_of(&self, namespace: &[u8]) -> Result<Option<i64>> {
        self.windowed.then(|| start_of(namespace)).transpose()
    }

    fn key_text(&self, key: &[u8]) -> String {
        decode_key(key, self.key_columns.len()).map_or_else(|_| String::new(), |cells| cells.join(","))
    }
}

/// Returns the schema of a key of these columns.
fn key_schema(columns: &[String]) -> Schema {
    let expression = struct_expression(columns.iter().map(|name| (name.as_str(), "utf8".to_owned())));
    Schema::new(format!("postcard:{expression}"))
}

/// Visits all rows of a table until `each` fails.
fn visit<B: StateBackend>(
    backend: &mut B,
    table: TableId,
    mut each: impl FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    let groups = backend.groups().clone();
    let mut outcome: Result<(), Error> = Ok(());
    backend.scan(table, &groups, &[], |entry| {
        outcome = each(entry);
        outcome.is_ok()
    })?;
    outcome
}
