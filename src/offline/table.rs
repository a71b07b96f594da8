//! Finding tables of a checkpoint by name, and decoding their rows by the types that the manifest names.

use crate::codec::bytes::Reader;
use crate::codec::schema::{Part, Type, Value, decode_any};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::manifest::{Manifest, OperatorManifest, StateKind, TableSchema};
use crate::row::{Op, Row, RowKey};

/// The types of a table's keys and values. A type unknown to this build is shown as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowTypes {
    /// Type of the keys.
    pub key: Type,
    /// Type of the namespaces.
    pub namespace: Type,
    /// Type of the sub-keys.
    pub sub: Type,
    /// Type of the values.
    pub value: Type,
    /// Type of a list's elements, if the rows are lists.
    element: Option<Type>,
    version: u32,
}

/// A row's place, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPlace<'a> {
    /// Its key.
    pub key: Value<'a>,
    /// Its namespace; `Unit` if the table has none.
    pub namespace: Value<'a>,
    /// Its sub-key; `Unit` if the table has none.
    pub sub: Value<'a>,
}

/// A live row, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRow<'a> {
    /// Its key group.
    pub group: KeyGroup,
    /// Its place within the group.
    pub place: RowPlace<'a>,
    /// Its value.
    pub value: Value<'a>,
}

impl RowTypes {
    /// Returns the types of `table`.
    #[must_use]
    pub fn of(table: &TableSchema) -> Self {
        let parse = |name: &str| Type::parse(name).unwrap_or(Type::Bytes);
        let list = (table.kind == StateKind::List).then(|| parse(&table.value.name));
        Self {
            key: parse(&table.key.name),
            namespace: parse(&table.namespace.name),
            sub: parse(&table.sub.name),
            value: match list.clone() {
                Some(ty) => Type::List(Box::new(Part { ty, version: table.value.version })),
                None => parse(&table.value.name),
            },
            element: list,
            version: table.value.version,
        }
    }

    /// Returns the types of a table that the manifest does not describe.
    #[must_use]
    pub fn unknown() -> Self {
        let bytes = || Type::Bytes;
        Self { key: bytes(), namespace: bytes(), sub: bytes(), value: bytes(), element: None, version: 0 }
    }

    /// Decodes the place of a row.
    ///
    /// # Errors
    /// `Corrupt` if its bytes do not have these types.
    pub fn place<'a>(&'a self, key: &RowKey<'a>) -> Result<RowPlace<'a>> {
        let decode = |ty, part: Option<&'a [u8]>| decode_any(ty, part.unwrap_or_default());
        Ok(RowPlace {
            key: decode(&self.key, key.key)?,
            namespace: decode(&self.namespace, key.namespace)?,
            sub: decode(&self.sub, key.sub)?,
        })
    }

    /// Decodes a live row.
    ///
    /// # Errors
    /// `Corrupt` if its bytes do not have these types; `Version` if its value has operands, which only the table's
    /// merge operator can apply.
    pub fn entry<'a>(&'a self, group: KeyGroup, row: &Row<'a>) -> Result<TableRow<'a>> {
        let bytes = match row.op {
            Op::Put(bytes) => bytes,
            // List elements with another version than the elements before them.
            Op::Merge(bytes) if self.element.is_some() => bytes,
            _ => return Err(Error::version("row needs a merge operator that this tool lacks").with("group", group)),
        };
        let value = match &self.element {
            // Written under another version of the type, which the manifest does not describe.
            _ if row.piece().version != self.version => Value::Bytes(bytes.into()),
            Some(element) => Value::List(elements(element, bytes)?),
            None => decode_any(&self.value, bytes)?,
        };
        Ok(TableRow { group, place: self.place(&row.key)?, value })
    }
}

/// Decodes the elements of a list, each prefixed with its length.
fn elements<'a>(element: &'a Type, bytes: &'a [u8]) -> Result<Vec<Value<'a>>> {
    let mut reader = Reader::new(bytes);
    let mut elements = Vec::new();
    while reader.remaining() > 0 {
        elements.push(decode_any(element, reader.length_delimited(bytes.len())?)?);
    }
    Ok(elements)
}

/// Returns the table named `name`: `TABLE`, or `OPERATOR.TABLE` if several operators have one of that name.
///
/// # Errors
/// `NotFound`, naming the existing tables; `Config` if the name is ambiguous.
pub fn find_table<'a>(manifest: &'a Manifest, name: &str) -> Result<(&'a OperatorManifest, &'a TableSchema)> {
    let all = manifest.operators.iter().flat_map(|operator| operator.tables.iter().map(move |table| (operator, table)));
    let named = |(operator, table): &(&OperatorManifest, &TableSchema)| {
        let qualified = name.strip_prefix(operator.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
        table.name == name || qualified == Some(table.name.as_str())
    };
    let mut found = all.clone().filter(named);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(Error::config("several operators have a table of this name: write OPERATOR.TABLE").with("table", name))
        }
        (None, _) => {
            let names: Vec<_> = all.map(|(operator, table)| format!("{}.{}", operator.name, table.name)).collect();
            Err(Error::not_found("no such table").with("table", name).with("existing", names.join(", ")))
        }
    }
}

/// Returns the table with this id, if the operator's manifest describes it.
pub(super) fn table_of(operator: &OperatorManifest, id: TableId) -> Option<&TableSchema> {
    operator.tables.iter().find(|table| table.id == id)
}

/// Returns a name for display of the table with this id.
pub(super) fn table_name(operator: Option<&OperatorManifest>, id: TableId) -> String {
    let known = operator.and_then(|operator| table_of(operator, id));
    known.map_or_else(|| format!("table-{id}"), |table| table.name.clone())
}
