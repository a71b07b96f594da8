//! What a caller chooses for a table: its name, namespaces and TTL.

use super::ttl::TtlConfig;
use crate::codec::schema::Schema;

/// A table's name and options. A name alone converts into options with no namespaces and no TTL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOptions {
    pub(super) name: String,
    pub(super) namespace: Schema,
    pub(super) ttl: Option<TtlConfig>,
}

impl TableOptions {
    /// Returns options for a table without namespaces whose rows never expire.
    ///
    /// * `name`: at most [`MAX_NAME_BYTES`](crate::manifest::MAX_NAME_BYTES); declaring a longer one fails.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: Schema::unit(), ttl: None }
    }

    /// Sets the type of the table's namespaces (windows, say).
    #[must_use]
    pub fn namespaced(mut self, namespace: Schema) -> Self {
        self.namespace = namespace;
        self
    }

    /// Sets the TTL of the table's rows. [`TtlConfig`] states what a change means for stored rows.
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
