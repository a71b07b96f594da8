//! The command-line tool.

mod cli;

fn main() {}
