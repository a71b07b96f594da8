//! Labels: kind, types and name of an operator state in one string, which names its opaques.
//!
//! A restore redistributes the items of a list one by one, so the opaque of each item must identify its state.

use std::fmt;

use crate::codec::schema::Schema;
use crate::error::{Error, Result};
use crate::manifest::Redistribution;

/// Prefix of the names of all opaques that carry operator state.
pub(super) const PREFIX: &str = "operator-state:";

/// Name of the opaque that lists all labels, including those of empty states.
pub(super) const LABELS: &str = "operator-state:labels";

/// The kind of an operator state, which decides how a restore redistributes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OperatorStateKind {
    /// A list whose items are split between subtasks.
    List,
    /// A list that every subtask restores whole.
    UnionList,
    /// A map that is the same in every subtask.
    Broadcast,
}

impl OperatorStateKind {
    const ALL: [Self; 3] = [Self::List, Self::UnionList, Self::Broadcast];

    const fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::UnionList => "union-list",
            Self::Broadcast => "broadcast",
        }
    }

    /// Returns the number of the kind's types: of items, or of keys and values.
    const fn type_count(self) -> usize {
        match self {
            Self::List | Self::UnionList => 1,
            Self::Broadcast => 2,
        }
    }

    pub(super) const fn redistribution(self) -> Redistribution {
        match self {
            Self::List => Redistribution::Split,
            Self::UnionList => Redistribution::Union,
            Self::Broadcast => Redistribution::Broadcast,
        }
    }
}

/// An operator state's kind, types and name. Prints in the stored form: `operator-state:list:1:5:u64le:offsets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) kind: OperatorStateKind,
    pub(super) schemas: Vec<Schema>,
    pub(super) name: String,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:", self.kind.word())?;
        for Schema { name, version } in &self.schemas {
            write!(f, "{version}:{}:{name}:", name.len())?;
        }
        f.write_str(&self.name)
    }
}

impl Label {
    /// Returns the label that prints as `text`.
    ///
    /// # Errors
    /// `Corrupt` if no label does; `Version` if the kind is unknown.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let corrupt = || Error::corrupt("not the label of an operator state").with("label", text);
        let (word, mut rest) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':')).ok_or_else(corrupt)?;
        let Some(kind) = OperatorStateKind::ALL.into_iter().find(|kind| kind.word() == word) else {
            return Err(Error::version("unknown kind of operator state").with("label", text));
        };
        let mut schemas = Vec::new();
        for _ in 0..kind.type_count() {
            let (schema, after) = take_schema(rest).ok_or_else(corrupt)?;
            schemas.push(schema);
            rest = after;
        }
        let label = Self { kind, schemas, name: rest.to_owned() };
        // A number parses with a leading plus or zeros too; only the printed form is accepted.
        if label.to_string() == text { Ok(label) } else { Err(corrupt()) }
    }

    /// Returns kind and types for error messages: `list(u64le v1)`.
    pub(super) fn types(&self) -> String {
        let schemas: Vec<_> =
            self.schemas.iter().map(|schema| format!("{} v{}", schema.name, schema.version)).collect();
        format!("{}({})", self.kind.word(), schemas.join(", "))
    }
}

/// Splits a schema (version, length, name) off the start of `text`.
fn take_schema(text: &str) -> Option<(Schema, &str)> {
    let (version, rest) = text.split_once(':')?;
    let (length, rest) = rest.split_once(':')?;
    let (name, rest) = rest.split_at_checked(length.parse().ok()?)?;
    let schema = Schema { name: name.to_owned(), version: version.parse().ok()? };
    Some((schema, rest.strip_prefix(':')?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn schema(name: &str, version: u32) -> Schema {
        Schema { name: name.into(), version }
    }

    #[test]
    fn a_label_parses_as_it_prints() {
        let odd = schema("a:1:b>é", u32::MAX);
        for (schemas, kind) in [
            (vec![schema("u64le", 1)], OperatorStateKind::List),
            (vec![schema("", 0)], OperatorStateKind::UnionList),
            (vec![odd, schema("ordered:u8", 2)], OperatorStateKind::Broadcast),
        ] {
            for name in ["offsets", "", "1:2:x:é"] {
                let label = Label { kind, schemas: schemas.clone(), name: name.into() };
                assert_eq!(Label::parse(&label.to_string()).unwrap(), label);
            }
        }
        let label = Label { kind: OperatorStateKind::List, schemas: vec![schema("u64le", 1)], name: "offsets".into() };
        assert_eq!(label.to_string(), "operator-state:list:1:5:u64le:offsets");
        assert_eq!(label.types(), "list(u64le v1)");
    }

    #[test]
    fn text_that_no_label_prints_is_refused() {
        for text in [
            "",
            "list:1:5:u64le:x",
            "operator-state:",
            "operator-state:labels",
            "operator-state:list:",
            "operator-state:list:1:5:u64le",
            "operator-state:list:1:9:u64le:x",
            "operator-state:list:1:05:u64le:x",
            "operator-state:list:+1:5:u64le:x",
            "operator-state:list:1:99999999999999999999:u64le:x",
            "operator-state:list:1:1:é:x",
            "operator-state:broadcast:1:5:u64le:x",
        ] {
            assert_eq!(Label::parse(text).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
        let error = Label::parse("operator-state:ring:1:5:u64le:x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Version);
    }
}
