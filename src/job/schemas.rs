//! Checking that the subtasks of an operator agree on their tables.
//!
//! The manifest has one schema per table of an operator. Declarations are compared by name and by id before any row is
//! written: subtasks with different schemas under one id would misread each other's bytes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::backend::{TableEntry, Types};
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{OperatorId, Subtask};
use crate::manifest::TableSchema;

/// The tables declared by this process's subtasks so far.
#[derive(Debug, Default)]
pub(super) struct Schemas(Mutex<BTreeMap<OperatorId, Declared>>);

/// The declared tables of an operator.
#[derive(Debug, Default)]
struct Declared(Vec<Table>);

/// A table, with up to two of the subtasks that declared it.
#[derive(Debug)]
struct Table {
    schema: TableSchema,
    by: Subtask,
    also_by: Option<Subtask>,
}

impl Table {
    /// Returns a subtask other than `subtask` that declared it.
    fn declarer_other_than(&self, subtask: Subtask) -> Option<Subtask> {
        [Some(self.by), self.also_by].into_iter().flatten().find(|by| *by != subtask)
    }
}

impl Schemas {
    /// Records a subtask's declared tables.
    ///
    /// # Errors
    /// `Config`, naming both declarations, if another subtask declared a table differently; nothing is recorded then.
    pub(super) fn agree(&self, operator: OperatorId, subtask: Subtask, tables: &[TableEntry]) -> Result<()> {
        let mut operators = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        operators.entry(operator).or_default().agree(operator, subtask, tables)
    }
}

impl Declared {
    fn agree(&mut self, operator: OperatorId, subtask: Subtask, tables: &[TableEntry]) -> Result<()> {
        let declared = || tables.iter().filter(|table| table.declared).map(|table| &table.schema);
        let alike = |a: &TableSchema, b: &TableSchema| a.name == b.name || a.id == b.id;
        for schema in declared() {
            let unlike = |known: &&Table| alike(&known.schema, schema) && known.schema != *schema;
            for known in self.0.iter().filter(unlike) {
                if let Some(other) = known.declarer_other_than(subtask) {
                    return Err(differ(operator, (subtask, schema), (other, &known.schema)));
                }
            }
        }
        // A subtask that is restored again may declare other tables.
        self.0.retain(|known| known.declarer_other_than(subtask).is_some());
        for schema in declared() {
            match self.0.iter_mut().find(|known| known.schema == *schema) {
                Some(known) => known.also_by = known.also_by.or_else(|| (known.by != subtask).then_some(subtask)),
                None => self.0.push(Table { schema: schema.clone(), by: subtask, also_by: None }),
            }
        }
        Ok(())
    }
}

fn differ(
    operator: OperatorId,
    (subtask, schema): (Subtask, &TableSchema),
    (other, known): (Subtask, &TableSchema),
) -> Error {
    let error = Error::config("subtasks of an operator declare a table differently")
        .with("operator", operator)
        .with("table", &schema.name)
        .with("subtask", subtask)
        .with("declared", format_args!("{} {}", schema.id, Types(schema)));
    let error = if known.name == schema.name { error } else { error.with("other_table", &known.name) };
    error.with("other_subtask", other).with("other_declared", format_args!("{} {}", known.id, Types(known)))
}

/// Returns the tables of each operator, ordered by id. Undeclared tables keep their restored schema.
///
/// * `subtasks`: the tables of each subtask.
///
/// # Errors
/// `Config` if two subtasks declared a table differently. Within one process [`Schemas`] refuses that earlier.
pub(super) fn merged<'a>(
    subtasks: impl Iterator<Item = (Participant, &'a [TableEntry])> + Clone,
) -> Result<BTreeMap<OperatorId, Vec<TableSchema>>> {
    let mut declared: BTreeMap<OperatorId, Declared> = BTreeMap::new();
    for ((operator, subtask), tables) in subtasks.clone() {
        declared.entry(operator).or_default().agree(operator, subtask, tables)?;
    }
    let schemas = |declared: Declared| declared.0.into_iter().map(|table| table.schema).collect();
    let mut merged: BTreeMap<_, Vec<_>> = declared.into_iter().map(|(id, declared)| (id, schemas(declared))).collect();
    for ((operator, _), tables) in subtasks {
        let of_operator = merged.entry(operator).or_default();
        for TableEntry { schema, .. } in tables {
            if of_operator.iter().all(|known| known.id != schema.id) {
                of_operator.push(schema.clone());
            }
        }
    }
    merged.values_mut().for_each(|tables| tables.sort_by_key(|table| table.id));
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::codec::schema::Schema;
    use crate::id::TableId;
    use crate::manifest::StateKind;
    use crate::row::Ttl;

    const OPERATOR: OperatorId = OperatorId(5);

    fn entry(id: u32, name: &str, value: &str, declared: bool) -> TableEntry {
        let schema = TableSchema {
            id: TableId(id),
            name: name.into(),
            kind: StateKind::Value,
            key: Schema::new("bytes"),
            namespace: Schema::unit(),
            sub: Schema::unit(),
            value: Schema::new(value),
            ttl: None,
            merge_operator: None,
        };
        TableEntry { schema, declared }
    }

    fn agreed(first: &[TableEntry], second: &[TableEntry]) -> Result<()> {
        let schemas = Schemas::default();
        schemas.agree(OPERATOR, Subtask(0), first)?;
        schemas.agree(OPERATOR, Subtask(1), second)
    }

    #[test]
    fn a_conflicting_declaration_is_refused_naming_both_sides() {
        let known = [entry(1, "a", "u64le", true)];
        let mut ttl = entry(1, "a", "u64le", true);
        ttl.schema.ttl = Some(Ttl { millis: 7, ..Ttl::default() });
        for other in [entry(1, "a", "utf8", true), entry(2, "a", "u64le", true), entry(1, "b", "u64le", true), ttl] {
            let refused = agreed(&known, std::slice::from_ref(&other)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Config);
            let said = refused.to_string();
            let types = [Types(&known[0].schema), Types(&other.schema)].map(|types| types.to_string());
            for part in ["operator=`5`", "subtask=`1`", "other_subtask=`0`", &types[0], &types[1]] {
                assert!(said.contains(part), "{said} lacks {part}");
            }
        }
    }

    #[test]
    fn subtasks_may_declare_different_tables() {
        let [a, b] = [entry(1, "a", "u64le", true), entry(2, "b", "utf8", true)];
        agreed(std::slice::from_ref(&a), std::slice::from_ref(&b)).unwrap();
        // A restored schema does not bind a subtask that declares the table.
        let old = entry(1, "a", "u32le", false);
        agreed(std::slice::from_ref(&old), std::slice::from_ref(&a)).unwrap();
        let subtasks = [(Subtask(0), [old, b.clone()]), (Subtask(1), [a.clone(), entry(3, "c", "utf8", false)])];
        let merged = merged(subtasks.iter().map(|(subtask, tables)| ((OPERATOR, *subtask), &tables[..]))).unwrap();
        assert_eq!(merged[&OPERATOR], [a.schema, b.schema, entry(3, "c", "utf8", false).schema]);
    }

    #[test]
    fn a_subtask_may_replace_its_declarations() {
        let schemas = Schemas::default();
        let [first, second] = [entry(1, "a", "u64le", true), entry(1, "a", "utf8", true)];
        schemas.agree(OPERATOR, Subtask(0), &[first]).unwrap();
        schemas.agree(OPERATOR, Subtask(0), std::slice::from_ref(&second)).unwrap();
        schemas.agree(OPERATOR, Subtask(1), std::slice::from_ref(&second)).unwrap();
        schemas.agree(OPERATOR, Subtask(0), &[second]).unwrap();
        let first = entry(1, "a", "u64le", true);
        assert!(schemas.agree(OPERATOR, Subtask(0), &[first]).is_err(), "another subtask has declared it meanwhile");
    }
}
