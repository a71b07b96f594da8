//! The tool's own modules that read input and flags, under the names by which they know each other.

#[path = "../../../src/cli/run/aggregate/mod.rs"]
mod aggregate;
#[path = "../../../src/cli/run/args.rs"]
mod args;
#[path = "../../../src/cli/run/columns.rs"]
mod columns;
#[path = "../../../src/cli/run/files.rs"]
mod files;
#[path = "../../../src/cli/run/fuzz.rs"]
pub(crate) mod fuzz;
#[path = "../../../src/cli/run/interval.rs"]
mod interval;
#[path = "../../../src/cli/run/list.rs"]
mod list;
#[path = "../../../src/cli/run/output.rs"]
mod output;
#[path = "../../../src/cli/run/program.rs"]
mod program;
#[path = "../../../src/cli/run/rate.rs"]
mod rate;
#[path = "../../../src/cli/run/record.rs"]
mod record;
#[path = "../../../src/cli/run/source/mod.rs"]
mod source;
#[path = "../../../src/cli/run/window.rs"]
mod window;
