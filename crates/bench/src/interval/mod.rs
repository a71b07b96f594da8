//! `alluvium interval`: replays a load under the controller and under fixed intervals.
//!
//! ```text
//! trace --> World (job, load, failures) --simulation, many seeds--> Outcome per policy --> table, JSON, picture
//! ```
//!
//! The policies are the controller, fixed intervals, and a clairvoyant schedule that knows the future load and the true
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

pub use args::IntervalArgs as Args;

use alluvium::Result;

use crate::Print;

/// Runs the command.
///
/// # Errors
/// `Input` or `NotFound` for the trace, `Config` for invalid goals, `Unavailable` if output cannot be written.
pub fn run(args: &Args, print: Print<'_>) -> Result<()> {
    if args.suite {
        return suite::run(args, print);
    }
    let case = args.case()?;
    let comparison = compare::compare(&case)?;
    if let Some(path) = &args.svg {
        picture::draw(path, &case, &comparison)?;
    }
    if args.json {
        print(&document(&report::json(&case, &comparison)))
    } else {
        print(&report::text(&case, &comparison))
    }
}

/// Returns `document` as text.
fn document(document: &serde_json::Value) -> String {
    format!("{document:#}\n")
}
