//! A PostgreSQL server with its own folder and socket, for the life of this process.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a real server takes real time, and the environment says whether it must be there"
)]

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// Ties the server to this process: the shell's standard input closes whenever this process ends, and the shell then ends the
/// server and removes its folder, unless it is to stay. First prints the server's process id.
const LEASH: &str = r#"exec 2>&1; "$@" & echo $!; exec >&- 2>&-
read -r keep; kill -QUIT $!; wait $!; [ -n "$keep" ] || rm -rf "$0""#;

/// An account that may run a server: it refuses root.
const NOBODY: u32 = 65534;

/// A server, running or killed.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    programs: PathBuf,
    options: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    shell: Child,
    pid: i32,
}

impl Server {
    /// Returns a server for all tests that leave it running, or `None` if PostgreSQL is not installed.
    pub fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(&["-h", ""])).as_ref()
    }

    /// Starts a server with an empty folder.
    pub fn start(options: &[&str]) -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        if geteuid().is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut server =
            Self { folder, programs, options: options.iter().map(|it| (*it).to_owned()).collect(), running: None };
        let data = server.data();
        let mut initdb = server.command("initdb");
        initdb.args(["--no-sync", "-U", "postgres", "--locale=C.UTF-8", "-A", "trust", "-D"]).arg(data);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.restart();
        Some(server)
    }

    /// Starts the server again, and returns once it takes connections.
    pub fn restart(&mut self) {
        // Just after a kill it may find its former self still there: tried again, each start ends by itself.
        let mut said = String::new();
        for _ in 0..100 {
            match self.try_start() {
                Ok(running) => {
                    self.running = Some(running);
                    return;
                }
                Err(output) => said = output,
            }
        }
        panic!("the server does not start: {said}");
    }

    fn try_start(&self) -> Result<Running, String> {
        let mut command = Command::new("sh");
        command.args(["-c", LEASH]).arg(self.folder.path()).args(self.as_nobody()).arg(self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        command.args(["-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_connections=40"]).args(&self.options);
        let mut shell = command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines().map_while(Result::ok);
        let pid = lines.next().unwrap().parse().unwrap();
        let mut said = String::new();
        for line in lines.by_ref() {
            if line.contains("database system is ready to accept connections") {
                // The remaining output is discarded, but must be read: a full pipe would block the server.
                std::thread::spawn(move || lines.count());
                return Ok(Running { shell, pid });
            }
            said = format!("{said}{line}\n");
        }
        end_but_keep(&mut shell);
        Err(said)
    }

    /// Ends all processes of the server at once, with SIGKILL.
    pub fn kill(&mut self) {
        let Running { mut shell, pid } = self.running.take().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let own = std::iter::once(pid).chain(children.split_whitespace().map(|child| child.parse().unwrap()));
        for pid in own {
            // A child may be gone already.
            let _gone = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        end_but_keep(&mut shell);
    }

    fn command(&self, program: &str) -> Command {
        let mut words = self.as_nobody();
        words.push(self.programs.join(program).to_str().unwrap().to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir("/");
        command
    }

    fn as_nobody(&self) -> Vec<String> {
        let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        if geteuid().is_root() { words.map(str::to_owned).to_vec() } else { Vec::new() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes a file of the server's data, for the server alone.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        if geteuid().is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// Returns the folder with the server's socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the server's address.
    pub fn address(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.path().display())
    }

    /// Returns a connection of the tests' own.
    pub async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.address(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs statements.
    pub async fn run(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// Returns the texts of a query's only column.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.client().await.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_else(|| "null".to_owned())).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(Running { mut shell, .. }) = self.running.take() {
            drop(shell.stdin.take());
            let _ended = shell.wait();
        }
    }
}

/// Ends a shell, whose server is dead, and keeps the server's folder.
fn end_but_keep(shell: &mut Child) {
    shell.stdin.take().unwrap().write_all(b"keep\n").unwrap();
    shell.wait().unwrap();
}

/// Returns the folder of the newest PostgreSQL's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.path()).max_by_key(version).map(|path| path.join("bin"));
    let found = newest.filter(|path| path.join("postgres").exists());
    if found.is_none() {
        let message = "NOT TESTED: PostgreSQL is not installed (Debian: apt-get install postgresql)";
        assert_ne!(std::env::var("ALLUVIUM_REQUIRE_STORES").as_deref(), Ok("1"), "{message}");
        eprintln!("{message}");
    }
    found
}
