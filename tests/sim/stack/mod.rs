//! The whole stack: jobs with state of every kind run the public API unchanged, on nodes that crash, pause, come back and
//! take the job from each other, over a store that fails; what they restore, hold and put out is compared with a model.

mod atlas;
mod engine;
mod judge;
mod kinds;
mod model;
mod modes;
mod nodes;
mod scenario;
mod shadow;
mod sink;
mod workload;

pub(crate) use judge::intent;
pub(crate) use sink::Transaction;
