//! The bodies of all fuzz targets: bytes in; `Err` if they were refused as damage is; a panic if a rule broke.

mod backend;
mod codec;
mod decisions;
pub mod memory;
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
pub use names::names;
pub use operator_state::operator_state;
pub use restore::restore;

/// What a target does with an input.
pub type Body = fn(&[u8]) -> Result<()>;

/// All targets but those of the tool, which its package has.
pub const TARGETS: [(&str, Body); 13] = [
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

/// Gives `data` to a target, within the bound of memory.
///
/// # Panics
/// If a rule broke.
pub fn run(target: Body, data: &[u8]) {
    // That damage is refused is as good as that there is none.
    let _refused = memory::alone().bounded(memory::CAP, || target(data));
}
