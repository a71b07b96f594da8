//! `alluvium interval`: a load, replayed through the controller and through fixed intervals.
//!
//! ```text
//! trace --> World (job, load, failures) --simulation, many seeds--> Outcome per policy --> table, JSON, picture
//! ```
//!
//! The policies: the controller, fixed intervals, and a clairvoyant schedule that knows the load to come and the true
//! parameters. All see the same failures.

mod args;
mod clairvoyant;
mod compare;
mod picture;
mod report;
mod simulation;
mod suite;
#[cfg(test)]
mod tests;
mod trace;
mod world;

pub(crate) use args::IntervalArgs as Args;

use alluvium::Result;

use crate::cli::print;

/// Runs the command.
///
/// # Errors
/// `Input` or `NotFound` for the trace, `Config` for goals that cannot be, `Unavailable` for what cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.suite {
        return suite::run(args);
    }
    let case = args.case()?;
    let comparison = compare::compare(&case)?;
    if let Some(path) = &args.svg {
        picture::draw(path, &case, &comparison)?;
    }
    if args.json {
        print::json(&report::json(&case, &comparison))
    } else {
        print::out(&report::text(&case, &comparison))
    }
}
