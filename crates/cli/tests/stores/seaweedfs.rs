//! SeaweedFS: a real S3 server that keeps its objects on disk, and that tests kill and start again.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::server::installed;

/// Runs the server until a line arrives on standard input, or standard input closes, as it does whenever this process
/// ends; in that case the server's files go too. The signal is SIGKILL: on SIGTERM this server runs for minutes more.
const LEASH: &str = r#"exec 2>&1; "$@" & exec >/dev/null 2>&1
read -r _; ended=$?; kill -9 $!; wait
[ $ended = 0 ] || rm -rf "$FOLDER" $SOCKETS"#;

/// What the server says last when it starts.
const STARTED: &str = "Start Seaweed S3 API Server";

/// The parts of the server, and the number of their ports: each listens on two, for HTTP and for gRPC.
const PARTS: [&str; 4] = ["master", "volume", "filer", "s3"];
const PORTS: u16 = 8;

/// A server on its own folder and ports.
#[derive(Debug)]
pub(crate) struct SeaweedFs {
    /// The address of S3.
    pub(crate) address: SocketAddr,
    first_port: u16,
    /// Holds the write end of the shell's standard input. Dropped before the folder.
    shell: Child,
    folder: TempDir,
}

/// Returns the address of a server for the life of this process, or `None` if SeaweedFS is not installed.
pub(crate) fn shared() -> Option<SocketAddr> {
    static SERVER: OnceLock<Option<SeaweedFs>> = OnceLock::new();
    SERVER.get_or_init(SeaweedFs::start).as_ref().map(|server| server.address)
}

impl SeaweedFs {
    /// Starts a server; `None` if SeaweedFS is not installed.
    pub(crate) fn start() -> Option<Self> {
        let program = installed("seaweedfs")?.join("bin/weed");
        for _ in 0..5 {
            let (folder, first_port) = (tempfile::tempdir().unwrap(), free_ports());
            let address = (Ipv4Addr::LOCALHOST, first_port + PORTS - 2).into();
            let shell = launch(&program, folder.path(), first_port);
            let mut server = Self { address, first_port, shell, folder };
            match server.wait_until_ready() {
                Ok(()) => return Some(server),
                // Another process may have taken a port since it was found free.
                Err(said) => assert!(said.contains("address already in use"), "SeaweedFS does not start: {said}"),
            }
        }
        panic!("SeaweedFS finds no free ports");
    }

    /// Kills the server as `kill -9` does, and returns once it is gone.
    pub(crate) fn kill(&mut self) {
        self.shell.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.shell.wait().unwrap();
    }

    /// Starts the killed server again, on the same files and ports.
    pub(crate) fn restart(&mut self) {
        let program = installed("seaweedfs").unwrap().join("bin/weed");
        self.shell = launch(&program, self.folder.path(), self.first_port);
        self.wait_until_ready().unwrap_or_else(|said| panic!("SeaweedFS does not start again: {said}"));
    }

    /// Waits until the server takes objects. Returns what it said if it ends before that.
    fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut lines = BufReader::new(self.shell.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut said = String::new();
        let started = lines.by_ref().any(|line| {
            said = format!("{said}{line}\n");
            line.contains(STARTED)
        });
        if !started {
            return Err(said);
        }
        // The remaining output is discarded, but must be read: a full pipe would block the server.
        thread::spawn(move || lines.count());
        for _ in 0..6_000 {
            // The bucket may exist.
            drop(put(self.address, "/ready"));
            if put(self.address, "/ready/object").is_ok_and(|answer| answer.contains(" 200 ")) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("SeaweedFS takes no objects: {said}");
    }
}

/// Returns the first of [`PORTS`] ports that are free in a row. They lie below those that the kernel gives to outgoing
/// connections, so that no connection takes one while its server is down.
fn free_ports() -> u16 {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    let mut drawn = (0..10_000).map(|_| {
        let number = std::process::id().wrapping_mul(31).wrapping_add(DRAWN.fetch_add(1, Ordering::Relaxed));
        20_000 + PORTS * u16::try_from(number % 1_500).unwrap()
    });
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    drawn.find(|first| (*first..first + PORTS).all(free)).expect("no free ports")
}

/// Returns the server's flags.
fn flags(folder: &Path, first_port: u16) -> Vec<String> {
    let mut flags: Vec<String> = ["-logtostderr=true", "server", "-filer", "-s3"].map(str::to_owned).into();
    for (part, port) in PARTS.into_iter().zip((first_port..).step_by(2)) {
        flags.extend([format!("-{part}.port={port}"), format!("-{part}.port.grpc={}", port + 1)]);
    }
    flags.push(format!("-dir={}", folder.display()));
    for part in ["filer", "s3"] {
        flags.push(format!("-{part}.localSocket={}", folder.join(part).with_extension("sock").display()));
    }
    let fixed = [
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        // Each bucket has files of its own: many and small.
        "-master.volumeSizeLimitMB=64",
        "-volume.max=1000",
        // The only master waits for no other.
        "-master.electionTimeout=200ms",
        "-master.heartbeatInterval=50ms",
    ];
    flags.extend(fixed.map(str::to_owned));
    flags
}

/// Starts the server, and returns the shell that holds it.
fn launch(program: &Path, folder: &Path, first_port: u16) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", LEASH, "seaweedfs"]).arg(program).args(flags(folder, first_port)).current_dir(folder);
    // Settings and credentials of the user's environment are not for this server. Without any, it accepts all.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", folder);
    // New buckets get one file instead of seven.
    command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
    // The server has no flag for these names.
    let grpc = PARTS.into_iter().zip((first_port + 1..).step_by(2));
    let sockets = grpc.map(|(part, port)| format!("/tmp/seaweedfs-{part}-grpc-{port}.sock")).collect::<Vec<_>>();
    command.env("FOLDER", folder).env("SOCKETS", sockets.join(" "));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Creates an empty object or a bucket, and returns the head of the answer.
fn put(address: SocketAddr, target: &str) -> std::io::Result<String> {
    let mut server = TcpStream::connect(address)?;
    write!(server, "PUT {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
