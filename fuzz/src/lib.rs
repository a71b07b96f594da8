//! What fuzz targets share with the tests that run them over committed inputs: one body per target.

#[path = "../../tests/common/mod.rs"]
mod common;
mod memory;
#[path = "../../tests/model/world.rs"]
mod model;
mod seal;
mod targets;
mod world;

#[allow(dead_code, unused_imports, reason = "of what they do for the tool, two targets use a part")]
mod cli {
    #[path = "../../../src/cli/clock.rs"]
    mod clock;
    #[path = "../../../src/cli/goal.rs"]
    mod goal;
    #[path = "../../../src/cli/keys.rs"]
    mod keys;
    pub(crate) mod run;
}

use cli::run::fuzz::{flags, input};

/// Gives `data` to a target, within the bound of memory.
///
/// # Panics
/// If a rule broke, or there is no such target.
pub fn run(target: &str, data: &[u8]) {
    const TOOL: [(&str, targets::Body); 2] = [("flags", flags), ("input", input)];
    let (_, body) = TOOL.iter().chain(&targets::TARGETS).find(|(name, _)| *name == target).expect("a target");
    // That damage is refused is as good as that there is none.
    let _refused = memory::alone().bounded(memory::CAP, || body(data));
}
