//! Real object-store servers in memory, on a free loopback port, for the life of this process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The Azure server's only account and its key.
pub(crate) const AZURE_ACCOUNT: &str = "planted";
pub(crate) const AZURE_KEY: &str = "UExBTlRFRC1BWlVSRS1LRVktVEhBVC1OT0JPRFktTUFZLVNFRS4uLg==";

/// Ties a server to this process: the shell's standard input closes whenever this process ends, and the shell then
/// kills the server. The shell gives up its own output, so that the output ends if the server does.
const LEASH: &str = r#"exec 2>&1; "$@" & exec >/dev/null 2>&1; read -r _; kill $!"#;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Holds the write end of the shell's standard input.
    _shell: Child,
}

/// Returns the S3 server, or `None` if it is not installed.
pub(crate) fn s3() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let start = || start("moto", "bin/python", &["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
    SERVER.get_or_init(start).as_ref()
}

/// Returns the Azure Blob server, or `None` if it is not installed.
pub(crate) fn azure() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let flags = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"];
    let args = [&["--blobHost", "127.0.0.1", "--blobPort", "0"][..], &flags].concat();
    SERVER.get_or_init(|| start("azurite", "node_modules/.bin/azurite-blob", &args)).as_ref()
}

/// Returns the folder into which `install.sh` has installed a server, or `None` if it has not.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("stores").join(name);
    if !folder.join("installed").exists() {
        let message = format!("NOT TESTED: {name} is not installed (tests/stores/install.sh does that)");
        assert_ne!(std::env::var("ALLUVIUM_REQUIRE_STORES").as_deref(), Ok("1"), "{message}");
        eprintln!("{message}");
        return None;
    }
    Some(folder)
}

/// Starts a server, and returns once it has printed its address.
fn start(name: &str, program: &str, args: &[&str]) -> Option<Server> {
    let folder = installed(name)?;
    let mut command = Command::new("sh");
    command.args(["-c", LEASH, name]).arg(folder.join(program)).args(args).current_dir(&folder);
    command.env("PYTHONUNBUFFERED", "1").env("AZURITE_ACCOUNTS", format!("{AZURE_ACCOUNT}:{AZURE_KEY}"));
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut said = String::new();
    let address = lines.by_ref().find_map(|line| {
        said = format!("{said}{line}\n");
        let (_, after) = line.split_once("http://")?;
        after.trim().parse().ok()
    });
    let address = address.unwrap_or_else(|| panic!("{name} does not start: {said}"));
    // The remaining output is discarded, but must be read: a full pipe would block the server.
    std::thread::spawn(move || lines.count());
    Some(Server { address, _shell: shell })
}
