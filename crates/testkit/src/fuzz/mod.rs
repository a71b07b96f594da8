//! The bodies of all fuzz targets: bytes in; `Err` if the input is refused; a panic if an invariant is violated.

mod backend;
mod codec;
mod decisions;
pub mod memory;
mod message;
mod names;
pub mod object;
mod operator_state;
mod restore;
pub mod seal;
pub mod segment;
pub mod world;

use alluvium::Result;

pub use self::object::{manifest, object_envelope, pack};
pub use self::segment::{block, segment, segment_index};
pub use backend::backend;
pub use codec::{codecs, schema};
pub use decisions::decisions;
pub use message::{message, session};
pub use names::names;
pub use operator_state::operator_state;
pub use restore::restore;

/// Runs a target on one input.
pub type Body = fn(&[u8]) -> Result<()>;

/// All targets except the tool's, which are in the tool's package.
pub const TARGETS: [(&str, Body); 15] = [
    ("backend", backend),
    ("block", block),
    ("codecs", codecs),
    ("decisions", decisions),
    ("envelope", object_envelope),
    ("manifest", manifest),
    ("message", message),
    ("names", names),
    ("operator_state", operator_state),
    ("pack", pack),
    ("restore", restore),
    ("schema", schema),
    ("segment", segment),
    ("segment_index", segment_index),
    ("session", session),
];

/// Runs a target on `data`, within the memory bound.
///
/// # Panics
/// If an invariant is violated.
pub fn run(target: Body, data: &[u8]) {
    // A refused input is as valid an outcome as an accepted one.
    let _refused = memory::alone().bounded(memory::CAP, || target(data));
}
