//! The tables of an operator: what was restored, what is declared, and whether they agree.
//!
//! Invariants:
//! - a declaration that fails changes nothing;
//! - all subtasks give a table the same id and schema, in whatever order they declare their tables, and whatever others
//!   they have: a restored table keeps its id, a new one's is made of its name;
//! - versions of a table's values only rise, so a row's version alone tells how to read it.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::canary::{self, Canary};
use crate::codec::schema::Schema;
use crate::codec::typed::Codec;
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::manifest::{MAX_NAME_BYTES, StateKind, TableSchema};
use crate::row::{FIRST_VERSION, GroupTimes, Life, MergeOperator, TableRules, Ttl, Upgrade};
use crate::time::Timestamp;

use super::Table;
use super::evolve::ValueUpgrade;
use super::ttl::{self, TtlConfig};

/// A table's name and what can be chosen for it. A name alone will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOptions {
    name: String,
    namespace: Schema,
    ttl: Option<TtlConfig>,
}

impl TableOptions {
    /// Returns a table without namespaces, whose rows live for ever.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: Schema::unit(), ttl: None }
    }

    /// Gives it namespaces (windows, say) of this type.
    #[must_use]
    pub fn namespaced(mut self, namespace: Schema) -> Self {
        self.namespace = namespace;
        self
    }

    /// Lets its rows expire. What changes for rows that are stored: see [`TtlConfig`].
    #[must_use]
    pub fn ttl(mut self, ttl: TtlConfig) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

impl From<&str> for TableOptions {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for TableOptions {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// How far time had come in a checkpoint for all key groups of an operator alike: the same for all its subtasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointTimes {
    /// Event time; [`Timestamp::MIN`] if it had not begun, or was not the same for all groups.
    pub event_time: Timestamp,
    /// Processing time; [`Timestamp::MIN`] if it had not begun, or was not the same for all groups.
    pub processing_time: Timestamp,
}

impl CheckpointTimes {
    /// Returns what these records, of all groups of an operator, have in common.
    pub(crate) fn common<'a>(records: impl Iterator<Item = &'a GroupTimes> + Clone) -> Self {
        let common = |time: fn(&GroupTimes) -> Timestamp| {
            let mut times = records.clone().map(time);
            let first = times.next().unwrap_or(Timestamp::MIN);
            if times.all(|time| time == first) { first } else { Timestamp::MIN }
        };
        Self { event_time: common(|it| it.event_time), processing_time: common(|it| it.processing_time) }
    }
}

/// The declared and the restored tables of one operator.
///
/// Tables that were restored and are not declared again stay as they are, in this checkpoint and the next.
#[derive(Debug, Clone)]
pub struct Tables {
    key: Schema,
    restored: Option<CheckpointTimes>,
    schemas: Vec<TableSchema>,
    declared: Vec<TableId>,
    /// Tables that were renamed here.
    renamed: Vec<TableId>,
    /// How far time had come for the groups that are restored, with the bounds of their rows' lives.
    times: Vec<GroupTimes>,
    /// Whether the backend has not seen these times yet.
    changed_times: bool,
    /// What no backend was told yet.
    rules: Vec<(TableId, TableRules)>,
    /// What had held for rows that are restored.
    before: Before,
}

/// What had held for rows in the checkpoint that is restored.
#[derive(Debug, Clone, Default)]
struct Before {
    times: Vec<GroupTimes>,
    /// Of stored tables that were declared.
    ttls: Vec<(TableId, Option<Ttl>)>,
    /// Whether rows whose operands renew each other get another life.
    merged_otherwise: bool,
}

/// A table as a subtask has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) schema: TableSchema,
    /// Whether the subtask declared or renamed it; else it is as it was restored.
    pub(crate) declared: bool,
}

/// What a kind of state declares.
pub(super) struct Wanted {
    pub(super) kind: StateKind,
    pub(super) sub: Schema,
    pub(super) value: Schema,
    pub(super) ordered: bool,
    pub(super) merge: Option<Arc<dyn MergeOperator>>,
    pub(super) upgrade: Arc<dyn Upgrade>,
    /// Whether values of a schema can be read.
    pub(super) reads: Box<dyn Fn(&Schema) -> bool>,
}

impl Wanted {
    /// Returns a kind of plain values without sub-keys.
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
    /// Returns no tables, for keys of type `key`.
    #[must_use]
    pub fn new(key: Schema) -> Self {
        let (schemas, declared, times, rules) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            key,
            restored: None,
            schemas,
            declared,
            renamed: Vec::new(),
            times,
            changed_times: false,
            before: Before::default(),
            rules,
        }
    }

    /// Returns the tables of a checkpoint, for keys of type `key`.
    #[must_use]
    pub fn restored(key: Schema, schemas: Vec<TableSchema>, times: CheckpointTimes) -> Self {
        Self { schemas, restored: Some(times), ..Self::new(key) }
    }

    /// Sets how far time had come for each of the groups that are restored.
    #[must_use]
    pub(crate) fn in_groups(self, mut times: Vec<GroupTimes>) -> Self {
        for (id, ttl) in self.schemas.iter().filter_map(|table| Some((table.id, table.ttl?))) {
            for record in &mut times {
                // Until the table is declared here: others may declare it with another life meanwhile.
                let life = record.life(id).copied().unwrap_or(Life { table: id, ..Life::NONE });
                record.set_life(id, Some(Life { millis: life.millis.or(Some(ttl.millis)), ..life }));
            }
        }
        let before = Before { times: times.clone(), ..self.before };
        Self { times, before, changed_times: true, ..self }
    }

    /// Returns the tables that a checkpoint of this state has: restored and declared ones.
    #[must_use]
    pub fn schemas(&self) -> &[TableSchema] {
        &self.schemas
    }

    /// Returns how often something was declared or renamed: as long as that stays, so do [`Tables::entries`].
    pub(crate) fn changes(&self) -> usize {
        self.declared.len() + self.renamed.len()
    }

    /// Returns the tables, each with whether this subtask speaks for it.
    pub(crate) fn entries(&self) -> Arc<[TableEntry]> {
        let entry = |schema: &TableSchema| {
            let id = schema.id;
            TableEntry { declared: self.declared.contains(&id) || self.renamed.contains(&id), schema: schema.clone() }
        };
        self.schemas.iter().map(entry).collect()
    }

    /// Returns how far time had come in the checkpoint that is restored, if one is, where that is the same for all groups.
    #[must_use]
    pub fn restored_times(&self) -> Option<CheckpointTimes> {
        self.restored
    }

    /// Lets the restored table `old` go on as `new`. To be called before `new` is declared; a program may call it
    /// at every start: where `new` exists and `old` does not, or nothing was restored, it does nothing.
    ///
    /// # Errors
    /// `Config` if both exist, or neither; `Usage` if `old` is declared, or `new` is too long a name.
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

    /// Declares a table of any kind, for engines that lay out their own rows, and returns its id: that of the restored
    /// table of its name, or else a hash of the name. The id in `wanted` does not matter.
    ///
    /// # Errors
    /// `Usage` if the name is declared already or too long, or a merge operator is named; `Config` if the restored table
    /// of that name has another type, or the id of a new one is another table's.
    pub fn declare(&mut self, wanted: TableSchema) -> Result<TableId> {
        self.declare_with(wanted, TableRules::default())
    }

    /// As [`Tables::declare`], for rows with a meaning: what `rules` say beside version and life, which are `wanted`'s.
    ///
    /// # Errors
    /// As [`Tables::declare`]; `Usage` if the rules' merge operator is not the one that `wanted` names.
    pub fn declare_with(&mut self, wanted: TableSchema, rules: TableRules) -> Result<TableId> {
        if rules.merge.as_ref().map(|merge| merge.name()) != wanted.merge_operator.as_deref() {
            return Err(Error::usage("table's merge operator is not that of its rules").with("table", &wanted.name));
        }
        let (at, id) = self.place(&wanted.name)?;
        let wanted = TableSchema { id, ..wanted };
        match self.schemas.get(at) {
            Some(stored) if wanted != *stored => return Err(other_type(stored, &wanted)),
            _ => {}
        }
        let rules = TableRules { version: wanted.value.version, ttl: wanted.ttl, ..rules };
        self.enter(at, wanted, rules, |_, life| Ok(life.map(|life| Life { millis: None, ..*life })))?;
        Ok(id)
    }

    /// Declares a table of one of the kinds of this crate.
    pub(super) fn declare_kind(&mut self, options: TableOptions, wanted: Wanted) -> Result<Table> {
        let TableOptions { name, namespace, ttl } = options;
        let (at, id) = self.place(&name)?;
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
        schema.ttl = ttl::settle(ttl, old, times).map_err(|error| error.with("table", &schema.name))?;
        let (of_table, is_stored) = (schema.ttl, stored.is_some());
        let life = |record: &GroupTimes, life: Option<&Life>| {
            if !is_stored {
                return Ok(None);
            }
            let old = old.map(|old| life.map_or(old, |life| life.before(old)));
            let times = CheckpointTimes { event_time: record.event_time, processing_time: record.processing_time };
            let settled = ttl::settle(ttl, old, Some(times))?;
            Ok(settled.filter(|_| settled != of_table).map(|ttl| Life::of(id, ttl)))
        };
        let version = schema.value.version;
        let rules = TableRules {
            version,
            ordered: wanted.ordered,
            by_key: true,
            ttl: schema.ttl,
            merge: wanted.merge,
            // Rows of older versions may lie in segments whatever the last checkpoint says of the table.
            upgrade: (version > FIRST_VERSION).then_some(wanted.upgrade),
        };
        self.enter(at, schema, rules, life)?;
        Ok(Table { id, namespaced })
    }

    /// Returns the type of the operator's keys.
    pub(super) fn key(&self) -> &Schema {
        &self.key
    }

    /// Returns the rules that no backend was told yet.
    pub(super) fn take_rules(&mut self) -> Vec<(TableId, TableRules)> {
        std::mem::take(&mut self.rules)
    }

    /// Returns whether rows have to be loaded, and stored anew, by what had held for them: operands that no base has merged
    /// yet renewed each other under another life than they have now.
    pub(crate) fn merged_otherwise(&self) -> bool {
        self.before.merged_otherwise
    }

    /// Returns what the rows of tables that were declared meant in the checkpoint that is restored.
    pub(super) fn rules_before(&self) -> (Vec<(TableId, TableRules)>, &[GroupTimes]) {
        let before = |(id, rules): &(TableId, TableRules)| {
            let ttl = self.before.ttls.iter().find(|(of, _)| of == id).map_or(rules.ttl, |(_, ttl)| *ttl);
            (*id, TableRules { ttl, ..rules.clone() })
        };
        (self.rules.iter().map(before).collect(), &self.before.times)
    }

    /// Returns the records that no backend was told yet.
    pub(super) fn take_times(&mut self) -> Option<&[GroupTimes]> {
        std::mem::take(&mut self.changed_times).then_some(self.times.as_slice())
    }

    /// Returns where the table of this name stands or goes, and its id.
    fn place(&self, name: &str) -> Result<(usize, TableId)> {
        check_name(name)?;
        if let Some((at, known)) = self.schemas.iter().enumerate().find(|(_, table)| table.name == name) {
            if self.declared.contains(&known.id) {
                return Err(Error::usage("table is declared already").with("table", name));
            }
            return Ok((at, known.id));
        }
        let by_place = || u32::try_from(self.schemas.len()).unwrap_or(u32::MAX);
        let id = if canary::on(Canary::PositionalIds) { TableId(by_place()) } else { id_of(name) };
        match self.schemas.iter().find(|table| table.id == id) {
            Some(other) => Err(Error::config("table's id is taken by another table: it needs another name")
                .with("table", name)
                .with("other", &other.name)
                .with("id", id)),
            None => Ok((self.schemas.len(), id)),
        }
    }

    /// Enters a table that was declared.
    ///
    /// * `life`: what bounds its rows in groups with such a record, given what did before.
    fn enter(
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
            self.before.merged_otherwise |= changes && rules.renews_whole();
            self.before.ttls.push((id, stored.ttl));
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
        // Rows without a meaning need no rules, and are fastest without.
        let TableRules { version, ordered, by_key, ttl, merge, upgrade } = &rules;
        if *version != FIRST_VERSION || *ordered || !by_key || ttl.is_some() || merge.is_some() || upgrade.is_some() {
            self.rules.push((id, rules));
        }
        Ok(())
    }
}

/// Seed of the hash that ids of new tables are made by. Readers take ids from the registry: it is no part of the format,
/// but all subtasks of a job must have the same.
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
    Err(Error::usage("name of a table is too long").with("bytes", name.len()).with("limit", MAX_NAME_BYTES))
}

/// Refuses a declaration that the rows of a stored table cannot be read under.
fn check_stored(stored: &TableSchema, wanted: &TableSchema, reads: &dyn Fn(&Schema) -> bool) -> Result<()> {
    let places = |table: &TableSchema| (table.kind, table.key.clone(), table.namespace.clone(), table.sub.clone());
    let (old, new) = (&stored.value, &wanted.value);
    let reads = old == new || (old.version < new.version && reads(old));
    if places(stored) != places(wanted) || !reads {
        return Err(other_type(stored, wanted));
    }
    if stored.merge_operator != wanted.merge_operator {
        let name = |table: &TableSchema| table.merge_operator.clone().unwrap_or_else(|| "none".to_owned());
        return Err(Error::config("table was stored with another merge operator")
            .with("table", &wanted.name)
            .with("stored", name(stored))
            .with("declared", name(wanted)));
    }
    Ok(())
}

fn other_type(stored: &TableSchema, wanted: &TableSchema) -> Error {
    Error::config("table was stored with another type")
        .with("table", &wanted.name)
        .with("stored", Types(stored))
        .with("declared", Types(wanted))
}

/// Prints a table's types in one word.
pub(crate) struct Types<'a>(pub(crate) &'a TableSchema);

impl fmt::Display for Types<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableSchema { kind, key, namespace, sub, value, ttl, merge_operator, .. } = self.0;
        write!(f, "{kind:?}(")?;
        for (i, schema) in [key, namespace, sub, value].into_iter().enumerate() {
            write!(f, "{}{} v{}", if i == 0 { "" } else { ", " }, schema.name, schema.version)?;
        }
        if let Some(name) = merge_operator {
            write!(f, ", {name}")?;
        }
        if let Some(Ttl { millis, on_read, event_time, .. }) = ttl {
            let time = if *event_time { "event" } else { "processing" };
            let renewed = if *on_read { ", renewed by reads" } else { "" };
            write!(f, ", {millis} ms of {time} time{renewed}")?;
        }
        f.write_str(")")
    }
}
