//! Connects the processes of a cluster, and checks that they belong together.
//!
//! Timely connects processes as well, but waits for ever, and cannot tell one cluster from another. Here each pair of processes says
//! what it was started with before timely gets the connection; a difference is an error on both sides.

use std::fmt::Display;
use std::io::{self, ErrorKind as IoKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use alluvium::{Error, Result, SharedRuntime, Timestamp};

/// First bytes of a greeting, with its version.
const MAGIC: [u8; 8] = *b"alvtml\0\x01";
/// Time between two tries.
const RETRY: Duration = Duration::from_millis(20);
/// Most time that a process takes to greet once it is connected.
const GREETING: Duration = Duration::from_secs(2);

/// What a process says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) process: u32,
    pub(crate) processes: u32,
    pub(crate) threads: u32,
    /// Hash of the program.
    pub(crate) program: [u8; 32],
}

impl Greeting {
    const BYTES: usize = 8 + 3 * 4 + 32;

    fn encode(&self) -> Vec<u8> {
        let numbers = [self.process, self.processes, self.threads].map(u32::to_le_bytes);
        [&MAGIC[..], numbers.as_flattened(), &self.program].concat()
    }

    /// Returns `None` if the bytes are no greeting.
    fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (process, rest) = rest.split_first_chunk()?;
        let (processes, rest) = rest.split_first_chunk()?;
        let (threads, rest) = rest.split_first_chunk()?;
        let [process, processes, threads] = [process, processes, threads].map(|number| u32::from_le_bytes(*number));
        let program = rest.try_into().ok()?;
        (*magic == MAGIC).then_some(Self { process, processes, threads, program })
    }

    /// Refuses a process of another cluster.
    fn check(&self, other: &Self) -> Result<()> {
        let error = |what: &str| Error::config(what.to_owned()).with("process", other.process);
        let differ = |what, theirs: u32, ours: u32| Err(error(what).with("theirs", theirs).with("ours", ours));
        if other.processes != self.processes {
            return differ("a process was started for another number of processes", other.processes, self.processes);
        }
        if other.threads != self.threads {
            return differ("a process was started with another number of threads", other.threads, self.threads);
        }
        if other.program != self.program {
            return Err(error("a process runs another program"));
        }
        Ok(())
    }
}

/// Connects to all other processes. Returns a connection to each, and `None` in the place of this one.
///
/// # Errors
/// `Config` if a process was started differently, or an address is none; `Unavailable` if not all are there in time.
pub(crate) fn connect(addresses: &[String], ours: Greeting, wait: &Wait<'_>) -> Result<Vec<Option<TcpStream>>> {
    let index = ours.process as usize;
    let own = addresses.get(index);
    let own =
        own.ok_or_else(|| Error::config("the index of this process is not below their number").with("index", index))?;
    let listener = wait.until("cannot listen", own, || listen(own))?;
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    for (process, address) in addresses.iter().enumerate().take(index) {
        let stream = wait.until("a process of the cluster is not there", address, || dial(address))?;
        // It greets once it has connected to those before it.
        let theirs = greet(&stream, &ours, wait.left())?;
        let theirs = theirs
            .ok_or_else(|| Error::config("an address is not of a process of the cluster").with("address", address))?;
        ours.check(&theirs)?;
        if theirs.process as usize != process {
            let error = Error::config("a process has another index than its place in the list of addresses");
            return Err(error.with("index", theirs.process).with("place", process));
        }
        streams.push(Some(stream));
    }
    streams.resize_with(addresses.len(), || None);
    while let Some(missing) =
        (index + 1..addresses.len()).find(|process| streams.get(*process).is_some_and(Option::is_none))
    {
        let (stream, _) = wait.until("a process of the cluster is not there", missing, || listener.accept())?;
        // Others than processes connect as well: a probe of a port, say.
        let Some(theirs) = greet(&stream, &ours, GREETING)? else { continue };
        ours.check(&theirs)?;
        let place =
            streams.get_mut(theirs.process as usize).filter(|place| place.is_none() && theirs.process as usize > index);
        let place =
            place.ok_or_else(|| Error::config("two processes have the same index").with("index", theirs.process))?;
        *place = Some(stream);
    }
    Ok(streams)
}

/// Waits for what other processes do, until a deadline.
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    pub(crate) runtime: &'a SharedRuntime,
    pub(crate) deadline: Timestamp,
}

impl Wait<'_> {
    fn left(&self) -> Duration {
        self.deadline.since(self.runtime.monotonic())
    }

    /// Tries again and again. Addresses that cannot be used at all are tried as well: a name may not be known yet.
    fn until<R>(&self, what: &str, address: impl Display, mut attempt: impl FnMut() -> io::Result<R>) -> Result<R> {
        loop {
            let source = match attempt() {
                Ok(done) => return Ok(done),
                Err(source) => source,
            };
            if self.left().is_zero() {
                return Err(Error::unavailable(what.to_owned()).with("process", address).with_source(source));
            }
            self.runtime.sleep_blocking(RETRY);
        }
    }
}

fn listen(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn dial(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(IoKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, GREETING) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Exchanges greetings. Sends ours before it checks theirs: each side names a difference. Returns `None` if the other side sends none.
fn greet(mut stream: &TcpStream, ours: &Greeting, patience: Duration) -> Result<Option<Greeting>> {
    let mut bytes = [0; Greeting::BYTES];
    let greeted = (|| {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience.max(RETRY)))?;
        stream.write_all(&ours.encode())?;
        stream.read_exact(&mut bytes)?;
        stream.set_read_timeout(None)
    })();
    match greeted {
        Ok(()) => Ok(Greeting::decode(&bytes)),
        Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut) => {
            Err(Error::unavailable("a process of the cluster does not answer").with_source(error))
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_come_back_and_nothing_else_does() {
        let greeting = Greeting { process: 1, processes: 3, threads: 2, program: [7; 32] };
        let bytes: [u8; Greeting::BYTES] = greeting.encode().try_into().unwrap();
        assert_eq!(Greeting::decode(&bytes), Some(greeting));
        for at in 0..8 {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(Greeting::decode(&other), None);
        }
    }

    #[test]
    fn processes_of_other_clusters_are_refused() {
        let ours = Greeting { process: 0, processes: 3, threads: 2, program: [7; 32] };
        let peer = Greeting { process: 1, ..ours };
        ours.check(&peer).unwrap();
        let others =
            [Greeting { processes: 2, ..peer }, Greeting { threads: 1, ..peer }, Greeting { program: [8; 32], ..peer }];
        for other in others {
            assert_eq!(ours.check(&other).unwrap_err().kind(), alluvium::ErrorKind::Config);
        }
    }
}
