//! The restored and declared tables of an operator.
//!
//! Invariants:
//! - a declaration that fails changes nothing;
//! - all subtasks give a table the same id and schema, in whatever order they declare their tables and whatever other
//!   tables they have: a restored table keeps its id, and a new table's id is a hash of its name;
//! - versions of a table's values only rise, so a row's version alone selects its decoder.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::canary::{self, Canary};
use crate::codec::schema::Schema;
use crate::codec::typed::Codec;
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::manifest::{MAX_NAME_BYTES, StateKind, TableSchema};
use crate::row::{FIRST_VERSION, GroupTimes, Life, MergeOperator, TableRules, Ttl, Upgrade};

use super::access::Table;
use super::compatibility::{check_stored, other_type};
use super::evolve::ValueUpgrade;
use super::options::TableOptions;
use super::times::CheckpointTimes;
use super::ttl;

/// The restored and declared tables of one operator.
///
/// A restored table that is not declared again stays as it is, in this checkpoint and in later ones.
#[derive(Debug, Clone)]
pub struct Tables {
    key: Schema,
    /// Times of the restored checkpoint; `None` if nothing was restored.
    restored: Option<CheckpointTimes>,
    schemas: Vec<TableSchema>,
    declared: Vec<TableId>,
    /// Tables renamed by this program.
    renamed: Vec<TableId>,
    /// Times of the restored groups, with the TTL bounds of their rows.
    times: Vec<GroupTimes>,
    /// Whether `times` changed since the backend last took them.
    changed_times: bool,
    /// Rules that the backend has not taken yet.
    new_rules: Vec<(TableId, TableRules)>,
    stored: StoredRules,
}

/// The rules that rows had in the restored checkpoint.
#[derive(Debug, Clone, Default)]
struct StoredRules {
    times: Vec<GroupTimes>,
    /// Stored TTLs of the restored tables that are declared by now.
    ttls: Vec<(TableId, Option<Ttl>)>,
    /// Whether the TTL changed for rows whose operands renew each other.
    renewal_changed: bool,
}

/// A table as one subtask sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEntry {
    /// The table.
    pub schema: TableSchema,
    /// Whether the subtask declared or renamed the table; if not, the schema is the restored one.
    pub declared: bool,
}

/// The part of a table's declaration that its kind of state decides.
pub(super) struct KindSpec {
    pub(super) kind: StateKind,
    pub(super) sub: Schema,
    pub(super) value: Schema,
    pub(super) ordered: bool,
    pub(super) merge: Option<Arc<dyn MergeOperator>>,
    pub(super) upgrade: Arc<dyn Upgrade>,
    /// Returns whether the codec reads values of a schema.
    pub(super) reads: Box<dyn Fn(&Schema) -> bool>,
}

impl KindSpec {
    /// Returns the spec of a kind with plain values and no sub-keys.
    pub(super) fn new<V: 'static, C: Codec<V>>(kind: StateKind, codec: &C) -> Self {
        let reader = codec.clone();
        Self {
            kind,
            sub: Schema::unit(),
            value: codec.schema(),
            ordered: false,
            merge: None,
            upgrade: Arc::new(ValueUpgrade::new(codec.clone())),
            reads: Box::new(move |schema| reader.reads_version(schema)),
        }
    }
}

impl Tables {
    /// Returns an empty set of tables, for keys of type `key`.
    #[must_use]
    pub fn new(key: Schema) -> Self {
        Self {
            key,
            restored: None,
            schemas: Vec::new(),
            declared: Vec::new(),
            renamed: Vec::new(),
            times: Vec::new(),
            changed_times: false,
            new_rules: Vec::new(),
            stored: StoredRules::default(),
        }
    }

    /// Returns the tables of a restored checkpoint, for keys of type `key`.
    ///
    /// * `times`: the checkpoint's, from which TTLs that are new for stored rows count.
    #[must_use]
    pub fn restored(key: Schema, schemas: Vec<TableSchema>, times: CheckpointTimes) -> Self {
        let new_rules = schemas.iter().filter_map(timer_rules).collect();
        Self { schemas, restored: Some(times), new_rules, ..Self::new(key) }
    }

    /// Sets the times of each restored group.
    #[must_use]
    pub(crate) fn with_group_times(self, mut times: Vec<GroupTimes>) -> Self {
        for (id, ttl) in self.schemas.iter().filter_map(|table| Some((table.id, table.ttl?))) {
            for record in &mut times {
                // Keeps the TTL for groups here until the table is declared; another subtask may declare another TTL
                // before that.
                let life = record.life(id).copied().unwrap_or(Life { table: id, ..Life::NONE });
                record.set_life(id, Some(Life { millis: life.millis.or(Some(ttl.millis)), ..life }));
            }
        }
        let stored = StoredRules { times: times.clone(), ..self.stored };
        Self { times, stored, changed_times: true, ..self }
    }

    /// Returns the schemas of all restored and declared tables, which every checkpoint of this state lists.
    #[must_use]
    pub fn schemas(&self) -> &[TableSchema] {
        &self.schemas
    }

    /// Returns the number of declarations and renames so far. While it stays, so do [`Tables::entries`].
    pub(crate) fn changes(&self) -> usize {
        self.declared.len() + self.renamed.len()
    }

    /// Returns all tables, each with whether this subtask declared or renamed it.
    pub(crate) fn entries(&self) -> Arc<[TableEntry]> {
        let entry = |schema: &TableSchema| {
            let id = schema.id;
            TableEntry { declared: self.declared.contains(&id) || self.renamed.contains(&id), schema: schema.clone() }
        };
        self.schemas.iter().map(entry).collect()
    }

    /// Returns the times of the restored checkpoint; `None` if nothing was restored.
    #[must_use]
    pub fn restored_times(&self) -> Option<CheckpointTimes> {
        self.restored
    }

    /// Renames the restored table `old` to `new`; rows and id stay. Call it before declaring `new`. A program may call it
    /// at every start: if `new` exists and `old` does not, or nothing was restored, the call does nothing.
    ///
    /// # Errors
    /// `Config` if both tables exist, or neither; `Usage` if `old` is declared already, or `new` is longer than
    /// [`MAX_NAME_BYTES`].
    pub fn rename(&mut self, old: &str, new: &str) -> Result<()> {
        let known = |name: &str| self.schemas.iter().position(|table| table.name == name);
        let error = match (known(old), known(new)) {
            (Some(at), None) => {
                check_name(new)?;
                let Some(table) = self.schemas.get_mut(at) else { return Ok(()) };
                if !self.declared.contains(&table.id) {
                    new.clone_into(&mut table.name);
                    self.renamed.push(table.id);
                    return Ok(());
                }
                Error::usage("table to be renamed is declared already")
            }
            (None, Some(_)) => return Ok(()),
            (None, None) if self.schemas.is_empty() => return Ok(()),
            (Some(_), Some(_)) => Error::config("table to be renamed exists under both names"),
            (None, None) => Error::config("table to be renamed exists under neither name"),
        };
        Err(error.with("old", old).with("new", new))
    }

    /// Declares a table of any kind, for engines that lay out their own rows. Returns the id of the restored table of
    /// that name, or else a hash of the name; the id in `wanted` is ignored.
    ///
    /// # Errors
    /// `Usage` if the name is declared already or longer than [`MAX_NAME_BYTES`], or `wanted` names a merge operator;
    /// `Config` if the restored table of that name has another type, or another table has a new table's id.
    pub fn declare(&mut self, wanted: TableSchema) -> Result<TableId> {
        self.declare_with(wanted, TableRules::default())
    }

    /// Declares a table as [`Tables::declare`] does, with rules for its rows. Version and TTL come from `wanted`, the rest
    /// from `rules`.
    ///
    /// # Errors
    /// As [`Tables::declare`], except that `wanted` may name a merge operator: `Usage` if it is not that of `rules`.
    pub fn declare_with(&mut self, wanted: TableSchema, rules: TableRules) -> Result<TableId> {
        if rules.merge.as_ref().map(|merge| merge.name()) != wanted.merge_operator.as_deref() {
            return Err(
                Error::usage("table's merge operator differs from that of its rules").with("table", &wanted.name)
            );
        }
        let (at, id) = self.position(&wanted.name)?;
        let wanted = TableSchema { id, ..wanted };
        match self.schemas.get(at) {
            Some(stored) if wanted != *stored => return Err(other_type(stored, &wanted)),
            _ => {}
        }
        let timers = wanted.holds_timers();
        let rules = TableRules { version: wanted.value.version, timers, ttl: wanted.ttl, ..rules };
        self.register(at, wanted, rules, |_, life| Ok(life.map(|life| Life { millis: None, ..*life })))?;
        Ok(id)
    }

    /// Declares a table of one of this crate's kinds.
    pub(super) fn declare_kind(&mut self, options: TableOptions, wanted: KindSpec) -> Result<Table> {
        let TableOptions { name, namespace, ttl } = options;
        let (at, id) = self.position(&name)?;
        let namespaced = namespace != Schema::unit();
        let mut schema = TableSchema {
            id,
            name,
            kind: wanted.kind,
            key: self.key.clone(),
            namespace,
            sub: wanted.sub,
            value: wanted.value,
            ttl: None,
            merge_operator: wanted.merge.as_ref().map(|merge| merge.name().to_owned()),
        };
        let stored = self.schemas.get(at);
        if let Some(stored) = stored {
            check_stored(stored, &schema, &wanted.reads)?;
        }
        let (old, times) = (stored.and_then(|stored| stored.ttl), self.restored.filter(|_| stored.is_some()));
        schema.ttl = ttl::resolve(ttl, old, times).map_err(|error| error.with("table", &schema.name))?;
        let (table_ttl, is_stored) = (schema.ttl, stored.is_some());
        let life = |record: &GroupTimes, life: Option<&Life>| {
            if !is_stored {
                return Ok(None);
            }
            let old = old.map(|old| life.map_or(old, |life| life.before(old)));
            let times = CheckpointTimes { event_time: record.event_time, processing_time: record.processing_time };
            let group_ttl = ttl::resolve(ttl, old, Some(times))?;
            Ok(group_ttl.filter(|_| group_ttl != table_ttl).map(|ttl| Life::of(id, ttl)))
        };
        let version = schema.value.version;
        let rules = TableRules {
            version,
            ordered: wanted.ordered,
            by_key: true,
            timers: false,
            ttl: schema.ttl,
            merge: wanted.merge,
            // Segments may hold rows of older versions, whatever version the last checkpoint lists for the table.
            upgrade: (version > FIRST_VERSION).then_some(wanted.upgrade),
        };
        self.register(at, schema, rules, life)?;
        Ok(Table { id, namespaced })
    }

    /// Returns the type of the operator's keys.
    pub(super) fn key(&self) -> &Schema {
        &self.key
    }

    /// Returns the rules that the backend has not taken yet.
    pub(super) fn take_new_rules(&mut self) -> Vec<(TableId, TableRules)> {
        std::mem::take(&mut self.new_rules)
    }

    /// Returns whether rows must load under their stored rules and get new bases: operands that no base has merged yet
    /// renewed each other under another TTL than the declared one.
    pub(crate) fn must_load_under_stored_rules(&self) -> bool {
        self.stored.renewal_changed
    }

    /// Returns the declared tables' rules, with the TTLs and group times of the restored checkpoint.
    pub(super) fn stored_rules(&self) -> (Vec<(TableId, TableRules)>, &[GroupTimes]) {
        let with_stored_ttl = |(id, rules): &(TableId, TableRules)| {
            let ttl = self.stored.ttls.iter().find(|(table, _)| table == id).map_or(rules.ttl, |(_, ttl)| *ttl);
            (*id, TableRules { ttl, ..rules.clone() })
        };
        (self.new_rules.iter().map(with_stored_ttl).collect(), &self.stored.times)
    }

    /// Returns the times of the restored groups, with the TTL bounds of their rows.
    pub(crate) fn group_times(&self) -> &[GroupTimes] {
        &self.times
    }

    /// Returns the group times if they changed since the backend last took them.
    pub(super) fn take_changed_times(&mut self) -> Option<&[GroupTimes]> {
        std::mem::take(&mut self.changed_times).then_some(self.times.as_slice())
    }

    /// Returns the index of the table in `schemas`, or the end if the table is new, and its id.
    fn position(&self, name: &str) -> Result<(usize, TableId)> {
        check_name(name)?;
        if let Some((at, known)) = self.schemas.iter().enumerate().find(|(_, table)| table.name == name) {
            if self.declared.contains(&known.id) {
                return Err(Error::usage("table is declared already").with("table", name));
            }
            return Ok((at, known.id));
        }
        let by_position = || u32::try_from(self.schemas.len()).unwrap_or(u32::MAX);
        let id = if canary::on(Canary::PositionalIds) { TableId(by_position()) } else { id_of(name) };
        match self.schemas.iter().find(|table| table.id == id) {
            Some(other) => Err(Error::config("table's id collides with another table's: choose another name")
                .with("table", name)
                .with("other", &other.name)
                .with("id", id)),
            None => Ok((self.schemas.len(), id)),
        }
    }

    /// Registers a declared table as entry `at` of `schemas`.
    ///
    /// * `life`: returns the TTL bounds of the table's rows in the groups of a record, given the record's old bounds.
    fn register(
        &mut self,
        at: usize,
        schema: TableSchema,
        rules: TableRules,
        life: impl Fn(&GroupTimes, Option<&Life>) -> Result<Option<Life>>,
    ) -> Result<()> {
        let id = schema.id;
        let lives: Vec<_> = self.times.iter().map(|record| life(record, record.life(id))).collect::<Result<_>>()?;
        if let Some(stored) = self.schemas.get(at) {
            let last = |record: &GroupTimes| {
                let ttl = stored.ttl?;
                Some(record.life(id).map_or(ttl, |life| life.before(ttl)).millis)
            };
            let now = schema.ttl.map(|ttl| ttl.millis);
            let changes = self.times.iter().map(last).any(|last| last.is_some() && last != now);
            self.stored.renewal_changed |= changes && rules.renews_whole();
            self.stored.ttls.push((id, stored.ttl));
        }
        for (record, life) in self.times.iter_mut().zip(lives) {
            self.changed_times |= record.life(id) != life.as_ref();
            record.set_life(id, life);
        }
        self.declared.push(id);
        match self.schemas.get_mut(at) {
            Some(stored) => *stored = schema,
            None => self.schemas.push(schema),
        }
        // Backends are fastest for tables without rules.
        let TableRules { version, ordered, by_key, timers, ttl, merge, upgrade } = &rules;
        let simple = *version == FIRST_VERSION && !ordered && *by_key && !timers;
        if !simple || ttl.is_some() || merge.is_some() || upgrade.is_some() {
            self.new_rules.push((id, rules));
        }
        Ok(())
    }
}

/// Returns the rules of a restored table of timers: segments tell the earliest timers, whether or not the program still
/// declares the table.
fn timer_rules(schema: &TableSchema) -> Option<(TableId, TableRules)> {
    let version = schema.value.version;
    let rules = TableRules { version, by_key: false, timers: true, ..TableRules::default() };
    schema.holds_timers().then_some((schema.id, rules))
}

/// Seed of the hash that gives new tables their ids. Readers take ids from the manifest, so the seed is no part of the
/// format, but all subtasks of a job must use the same one.
const ID_SEED: u64 = 0x7461_626c_6569_6473;

/// Returns the id of a new table of this name.
pub(super) fn id_of(name: &str) -> TableId {
    let [a, b, c, d, ..] = xxh3_64_with_seed(name.as_bytes(), ID_SEED).to_le_bytes();
    TableId(u32::from_le_bytes([a, b, c, d]))
}

fn check_name(name: &str) -> Result<()> {
    if name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(Error::usage("table name is too long").with("bytes", name.len()).with("limit", MAX_NAME_BYTES))
}
