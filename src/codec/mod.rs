//! The typed view of bytes: a bounds-checked reader and writer, and codecs for keys and values.

pub mod bytes;
pub mod schema;
pub mod typed;
