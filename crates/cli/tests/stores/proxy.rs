//! A proxy on loopback between a client and a store's server, which alters requests and answers according to a plan.
//!
//! The proxy speaks plain HTTP/1.1, with one upstream connection per request. A forwarded request completes even if the
//! client disconnects.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use alluvium_testkit::sim::Rng;

/// The act done to a request. Acts on answers apply only to answers of a fitting shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Pass,
    /// Applied; the connection closes without an answer.
    Lose,
    /// Not applied; the connection closes.
    Drop,
    /// Applied, never answered.
    Hang,
    /// Not applied, never answered.
    Ignore,
    /// Not applied; answered with this status.
    Refuse(u16),
    /// Applied; answered with this status.
    Mask(u16),
    /// Answered with 500, applied later.
    Late,
    /// Applied twice; the second answer is returned.
    Twice,
    /// Applied after a delay.
    Delay,
    /// Half of the answer's body arrives.
    Cut,
    /// Applied without its condition.
    Strip,
    /// A range is requested and the whole object is returned.
    Whole,
    /// Another range of the object is returned, and labelled as such.
    Shift,
    /// Another range of the object is returned, labelled as the requested one.
    Misread,
    /// Not applied; answered with these bytes.
    Say(String),
    /// Not applied; answered with these bytes, followed by this text endlessly.
    Endless(String, &'static str),
}

/// A request as seen by a plan.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The number of requests with this method and target, including this one.
    pub(crate) times: u64,
    /// The number of all requests, including this one.
    pub(crate) nth: u64,
    message: Message,
}

impl Request {
    pub(crate) fn head(&self) -> &str {
        &self.message.head
    }

    /// Returns whether the request creates an object whose key contains `folder`.
    pub(crate) fn creates(&self, folder: &str) -> bool {
        self.method == "PUT" && self.target.contains(folder)
    }

    /// Returns whether the request reads an object.
    pub(crate) fn reads(&self) -> bool {
        self.method == "GET" && !self.lists()
    }

    pub(crate) fn lists(&self) -> bool {
        self.target.contains("list-type=") || self.target.contains("comp=list")
    }
}

type Plan = Box<dyn Fn(&Request) -> Act + Send + Sync>;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    plan: Plan,
    asked: Mutex<BTreeMap<(String, String), u64>>,
    done: Mutex<BTreeMap<String, u64>>,
    longest_answer: AtomicU64,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, for the life of the process.
    pub(crate) fn start(upstream: SocketAddr, plan: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, done) = (Mutex::default(), Mutex::default());
        let shared =
            Arc::new(Shared { upstream, plan: Box::new(plan), asked, done, longest_answer: AtomicU64::new(0) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&accepting);
                // A client that disconnects is no error of the proxy.
                thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        Self { address, shared }
    }

    /// Returns how often each act was done.
    pub(crate) fn done(&self) -> BTreeMap<String, u64> {
        self.shared.done.lock().unwrap().clone()
    }

    /// Returns the number of requests.
    pub(crate) fn requests(&self) -> u64 {
        self.done().values().sum()
    }

    /// Returns the most bytes of one endless answer that left the proxy: read by the client, or in socket buffers.
    pub(crate) fn longest_answer(&self) -> u64 {
        self.shared.longest_answer.load(Ordering::Relaxed)
    }
}

/// Draws acts by `seed` for one request in `one_in`, at most three in a row for the same request.
pub(crate) fn seeded(seed: u64, one_in: u64, acts: &'static [Act]) -> impl Fn(&Request) -> Act + Send + Sync {
    let rows: Mutex<BTreeMap<(String, String), u32>> = Mutex::default();
    move |request| {
        let mut rows = rows.lock().unwrap();
        let row = rows.entry((request.method.clone(), request.target.clone())).or_default();
        let mut random = Rng::from_state(seed.wrapping_mul(0x1_0001) ^ request.nth);
        if *row == 3 || random.below(one_in) != 0 {
            *row = 0;
            return Act::Pass;
        }
        *row += 1;
        acts[usize::try_from(random.below(acts.len() as u64)).unwrap()].clone()
    }
}

impl Shared {
    /// Sends the request after its client was told that it failed.
    fn ask_later(&self, asked: &Message) -> Message {
        let (upstream, late) = (self.upstream, asked.clone());
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(60));
            late.exchange(upstream)
        });
        Message::status(500)
    }

    /// Answers until the client closes the connection.
    fn answer_without_end(&self, mut client: TcpStream, head: &str, more: &str) -> io::Result<()> {
        client.write_all(head.as_bytes())?;
        let mut sent = 0;
        loop {
            client.write_all(more.as_bytes())?;
            sent += more.len() as u64;
            self.longest_answer.fetch_max(sent, Ordering::Relaxed);
        }
    }
}

fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    while let Some(message) = Message::request(&mut reader)? {
        let request = shared.admit(message);
        let act = (shared.plan)(&request);
        let name = format!("{act:?}").split('(').next().unwrap_or_default().to_owned();
        *shared.done.lock().unwrap().entry(name).or_default() += 1;
        let asked = &request.message;
        let answer = match act {
            Act::Pass => shared.ask(asked)?,
            Act::Lose => return shared.ask(asked).map(drop),
            Act::Drop => return Ok(()),
            Act::Hang => {
                shared.ask(asked)?;
                return until_gone(reader);
            }
            Act::Ignore => return until_gone(reader),
            Act::Refuse(status) => Message::status(status),
            Act::Mask(status) => {
                shared.ask(asked)?;
                Message::status(status)
            }
            Act::Late => shared.ask_later(asked),
            Act::Twice => {
                shared.ask(asked)?;
                shared.ask(asked)?
            }
            Act::Delay => {
                thread::sleep(Duration::from_millis(40));
                shared.ask(asked)?
            }
            Act::Cut => {
                let answer = shared.ask(asked)?;
                client.write_all(answer.head.as_bytes())?;
                client.write_all(&answer.body[..answer.body.len() / 2])?;
                return Ok(());
            }
            Act::Strip => shared.ask(&asked.with("if-none-match", |_| None))?,
            Act::Whole => shared.ask(&asked.with("range", |_| None).with("x-ms-range", |_| None))?,
            Act::Shift => shared.ask(&asked.shifted())?,
            Act::Misread => {
                let (told, given) = (shared.ask(asked)?, shared.ask(&asked.shifted())?);
                if told.body.len() == given.body.len() { Message { body: given.body, ..told } } else { told }
            }
            Act::Say(bytes) => Message { head: bytes, body: Vec::new() },
            Act::Endless(head, more) => return shared.answer_without_end(client, &head, more),
        };
        let body: &[u8] = if request.method == "HEAD" { &[] } else { &answer.body };
        client.write_all(answer.head.as_bytes())?;
        client.write_all(body)?;
        client.flush()?;
    }
    Ok(())
}

/// Waits until the client disconnects.
fn until_gone(mut client: BufReader<TcpStream>) -> io::Result<()> {
    io::copy(&mut client, &mut io::sink()).map(drop)
}

impl Shared {
    fn admit(&self, message: Message) -> Request {
        let mut words = message.head.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut asked = self.asked.lock().unwrap();
        let times = asked.entry((method.clone(), target.clone())).or_default();
        *times += 1;
        let times = *times;
        Request { method, target, times, nth: asked.values().sum(), message }
    }

    fn ask(&self, message: &Message) -> io::Result<Message> {
        message.exchange(self.upstream)
    }
}

/// A request or an answer.
#[derive(Debug, Clone)]
struct Message {
    /// Including the empty line at the end.
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn status(status: u16) -> Self {
        let body = format!("<Error><Code>Injected</Code><Message>status {status}</Message></Error>");
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n");
        Self { head, body: body.into() }
    }

    /// Reads a request; `None` at the end of the connection.
    fn request(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(mut request) = Self::head(from)? else { return Ok(None) };
        let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        from.take(length).read_to_end(&mut request.body)?;
        Ok(Some(request))
    }

    fn head(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if from.read_line(&mut head)? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(Self { head, body: Vec::new() }))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Returns the message with header `name`, if present, changed or removed.
    fn with(&self, name: &str, change: impl Fn(&str) -> Option<String>) -> Self {
        let lines = self.head.split_inclusive("\r\n").filter_map(|line| match line.split_once(':') {
            Some((found, value)) if found.eq_ignore_ascii_case(name) => {
                change(value.trim()).map(|value| format!("{found}: {value}\r\n"))
            }
            _ => Some(line.to_owned()),
        });
        Self { head: super::place::sign(&lines.collect::<String>()), body: self.body.clone() }
    }

    /// Returns the message with the requested range shifted by one byte.
    fn shifted(&self) -> Self {
        let further = |range: &str| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some(format!("bytes={}-{}", first.parse::<u64>().ok()? + 1, last.parse::<u64>().ok()? + 1))
        };
        self.with("range", further).with("x-ms-range", further)
    }

    /// Sends the message to `upstream` and returns the answer.
    fn exchange(&self, upstream: SocketAddr) -> io::Result<Self> {
        let mut server = TcpStream::connect(upstream)?;
        server.write_all(self.head.as_bytes())?;
        server.write_all(&self.body)?;
        let mut from = BufReader::new(server);
        let mut answer = Self::head(&mut from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = answer.head.split(' ').nth(1).unwrap_or_default().to_owned();
        if self.head.starts_with("HEAD ") || ["204", "304"].contains(&status.as_str()) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            answer.body = chunks(&mut from)?;
        } else if let Some(length) = answer.header("content-length").and_then(|text| text.parse().ok()) {
            from.take(length).read_to_end(&mut answer.body)?;
        } else {
            from.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }
}

/// Reads a chunked body, including its framing.
fn chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        body.extend_from_slice(line.as_bytes());
        let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        from.take(length + 2).read_to_end(&mut body)?;
        if length == 0 {
            return Ok(body);
        }
    }
}
