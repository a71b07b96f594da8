//! The crate's own modules, for its tests, simulator, fuzz targets and tools. Nothing here is stable.

/// Decisions: coordinator, chain bound, retention, interval.
pub mod control {
    pub use crate::control::*;
}

/// Manifest log, segment chain, claim, commit, pipeline, restore, sweep.
pub mod checkpoint {
    pub use crate::checkpoint::*;
}

/// Bytes of values and formats.
pub mod codec {
    pub use crate::codec::*;
}

/// The frame of every stored object.
pub mod envelope {
    pub use crate::envelope::*;
}

/// Identities.
pub mod id {
    pub use crate::id::*;
}

/// Packs and data objects.
pub mod place {
    pub use crate::place::*;
}

/// How a manifest is shared out at another parallelism.
pub mod rescale {
    pub use crate::manifest::rescale::*;
}

/// The row model.
pub mod row {
    pub use crate::row::*;
}

/// The injected runtime.
pub mod runtime {
    pub use crate::runtime::*;
}

/// The segment format.
pub mod segment {
    pub use crate::segment::*;
}

/// Access to an object store.
pub mod store {
    pub use crate::store::*;
}

/// Messages between an owner and its workers.
pub mod wire {
    pub use crate::job::wire::*;
}

/// Planted bugs.
#[cfg(feature = "canary")]
pub mod canary {
    pub use crate::canary::*;
}
