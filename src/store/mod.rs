//! The only contact with an object store.
