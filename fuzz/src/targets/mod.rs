//! The bodies of all targets: bytes in; `Err` if they were refused as damage is; a panic if a rule broke.

mod backend;
mod codec;
mod decisions;
mod names;
pub(crate) mod object;
mod operator_state;
mod restore;
pub(crate) mod segment;

use alluvium::Result;

pub(crate) use backend::backend;
pub(crate) use codec::{codecs, schema};
pub(crate) use decisions::decisions;
pub(crate) use names::names;
pub(crate) use object::{manifest, object_envelope, pack};
pub(crate) use operator_state::operator_state;
pub(crate) use restore::restore;
pub(crate) use segment::{block, segment, segment_index};

/// What a target does with an input.
pub(crate) type Body = fn(&[u8]) -> Result<()>;

/// All targets but those of the tool, which `src/cli/run` has.
pub(crate) const TARGETS: [(&str, Body); 13] = [
    ("backend", backend),
    ("block", block),
    ("codecs", codecs),
    ("decisions", decisions),
    ("envelope", object_envelope),
    ("manifest", manifest),
    ("names", names),
    ("operator_state", operator_state),
    ("pack", pack),
    ("restore", restore),
    ("schema", schema),
    ("segment", segment),
    ("segment_index", segment_index),
];
