//! The `alluvium` command-line tool; the code is in this package's library.

fn main() -> std::process::ExitCode {
    alluvium_cli::main()
}
