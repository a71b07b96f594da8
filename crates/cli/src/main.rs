//! The command-line tool: see the library of this package.

fn main() -> std::process::ExitCode {
    alluvium_cli::main()
}
