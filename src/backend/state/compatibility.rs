//! Whether the rows of a stored table can be read under a declaration.

use std::fmt;

use crate::codec::schema::Schema;
use crate::error::{Error, Result};
use crate::manifest::TableSchema;
use crate::row::Ttl;

/// Checks that the rows of `stored` can be read as `wanted`: the same kind, key, namespace, sub-key and merge operator,
/// and a value type that is the same or newer.
///
/// * `reads`: returns whether the declared codec reads values of a schema.
///
/// # Errors
/// `Config` otherwise.
pub(super) fn check_stored(stored: &TableSchema, wanted: &TableSchema, reads: &dyn Fn(&Schema) -> bool) -> Result<()> {
    let row_key = |table: &TableSchema| (table.kind, table.key.clone(), table.namespace.clone(), table.sub.clone());
    let (old, new) = (&stored.value, &wanted.value);
    let reads = old == new || (old.version < new.version && reads(old));
    if row_key(stored) != row_key(wanted) || !reads {
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

pub(super) fn other_type(stored: &TableSchema, wanted: &TableSchema) -> Error {
    Error::config("table was stored with another type")
        .with("table", &wanted.name)
        .with("stored", Types(stored))
        .with("declared", Types(wanted))
}

/// Prints a table's kind, types, merge operator and TTL on one line.
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
