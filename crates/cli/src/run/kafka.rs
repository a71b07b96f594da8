//! Kafka, as `--input` and `--output` name it.

use std::sync::Arc;

use alluvium::manifest::RecordSum;
use alluvium::sink::SinkTarget;
use alluvium::source::{Source as _, StartAt, next_record};
use alluvium::{Error, Result};
use alluvium_kafka::{
    KafkaConnection, KafkaRecord, KafkaSasl, KafkaSaslMechanism, KafkaSource, KafkaSourceSettings, KafkaStart,
    KafkaTarget, KafkaTargetSettings, KafkaTls,
};

use super::output::{Output, OutputRow};
use super::source::Input;
use super::target::OutputPlace;

/// The longest name of a topic.
const TOPIC_BYTES_MAX: usize = 249;

/// A topic and how to reach it.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    servers: &'a str,
    topic: &'a str,
    is_encrypted: bool,
    login: Option<Login<'a>>,
    reading: Reading,
}

/// What an input reads of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Reading {
    stops_at_end: bool,
    starts_at_latest: bool,
}

/// A user, and how it proves its password.
#[derive(Debug, PartialEq, Eq)]
struct Login<'a> {
    user: &'a str,
    mechanism: KafkaSaslMechanism,
}

/// What follows `?` in a URL.
#[derive(Debug, Default)]
struct Options {
    is_encrypted: bool,
    mechanism: Option<KafkaSaslMechanism>,
    reading: Reading,
}

/// Returns the source at `kafka://[user@]host:port[,host:port...]/topic[?tls&plain|scram256|scram512&stop-at-end&latest]`. Makes no
/// request.
///
/// * `rest`: the URL after `kafka://`.
///
/// # Errors
/// `Config` if it is malformed, or if a user has no password in the environment.
pub(super) fn source(rest: &str) -> Result<KafkaSource> {
    let place = Place::parse(rest)?;
    let (topic, Reading { stops_at_end, starts_at_latest }) = (place.topic, place.reading);
    let settings = KafkaSourceSettings::default().with(|it| {
        it.stop_at_end = stops_at_end;
        it.start = if starts_at_latest { KafkaStart::Latest } else { KafkaStart::Earliest };
    });
    KafkaSource::new(place.connection()?, topic, settings)
}

/// Returns the topic at `kafka://[user@]host:port[,host:port...]/topic[?tls&plain|scram256|scram512]`.
///
/// * `rest`: the URL after `kafka://`.
///
/// # Errors
/// `Config` if it is malformed, or if a user has no password in the environment.
pub(super) fn target(rest: &str) -> Result<Arc<dyn SinkTarget>> {
    let place = Place::parse(rest)?;
    if place.reading != Reading::default() {
        return Err(Error::config("stop-at-end and latest are for an --input"));
    }
    let topic = place.topic;
    Ok(Arc::new(KafkaTarget::new(KafkaTargetSettings::new(place.connection()?, topic))?))
}

/// Returns the sum of all committed records of the topic at a URL, each as [`write`] made it.
///
/// * `rest`: the URL after `kafka://`.
///
/// # Errors
/// As [`source`]; others from the brokers.
pub(super) async fn topic_sum(rest: &str) -> Result<RecordSum> {
    let topic = source(rest)?;
    let mut sum = RecordSum::default();
    for split in topic.splits().await? {
        let mut reader = topic.open(&split, StartAt::Beginning).await?;
        while next_record(&mut reader).await? {
            let KafkaRecord { key, value, .. } = reader.current().cloned().unwrap_or_default();
            sum.add(&KafkaRecord { key, value, ..KafkaRecord::default() }.to_bytes());
        }
    }
    Ok(sum)
}

/// Refuses an output to the topic that is read: the run would read its own results for ever.
///
/// # Errors
/// `Config`, also if a URL is malformed.
pub(super) fn check_loop(input: &Input, output: Option<&OutputPlace>) -> Result<()> {
    let (Input::Topic(read), Some(OutputPlace::Url(written))) = (input, output) else { return Ok(()) };
    let Some(written) = written.strip_prefix("kafka://") else { return Ok(()) };
    let (read, written) = (Place::parse(read)?, Place::parse(written)?);
    let mut servers = read.servers.split(',');
    if read.topic == written.topic && servers.any(|server| written.servers.split(',').any(|other| other == server)) {
        return Err(Error::config("--output is the topic of --input"));
    }
    Ok(())
}

/// Writes a row as a record: its key and window, and the whole row.
///
/// # Errors
/// As [`Output::write_json`].
pub(super) fn write(output: &Output, row: &OutputRow, to: &mut Vec<u8>) -> Result<()> {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    output.write_json_key(row, &mut key)?;
    output.write_json(row, &mut value)?;
    to.extend_from_slice(&KafkaRecord::new(key, value).to_bytes());
    Ok(())
}

impl<'a> Place<'a> {
    /// Parses what follows `kafka://`. No error repeats a part of it, as it may hold a misplaced password.
    fn parse(rest: &'a str) -> Result<Self> {
        let malformed =
            || Error::config("a topic's url is kafka://[user@]host:port[,host:port...]/topic[?tls&scram512]");
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let Options { is_encrypted, mechanism, reading } = Options::parse(options)?;
        let (authority, topic) = place.split_once('/').ok_or_else(malformed)?;
        let (user, servers) = match authority.rsplit_once('@') {
            Some((user, servers)) => (Some(user), servers),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(Error::config("a password does not belong in a url: set KAFKA_PASSWORD"));
        }
        if user == Some("") || !servers.split(',').all(is_server) || !is_topic(topic) {
            return Err(malformed());
        }
        let login = match (user, mechanism) {
            (Some(user), Some(mechanism)) => Some(Login { user, mechanism }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Error::config("a topic's url with a user needs ?plain, ?scram256 or ?scram512"));
            }
            (None, Some(_)) => {
                return Err(Error::config(
                    "a topic's url with plain, scram256 or scram512 needs a user: kafka://user@...",
                ));
            }
        };
        Ok(Self { servers, topic, is_encrypted, login, reading })
    }

    fn connection(self) -> Result<KafkaConnection> {
        let sasl = self.login.map(Login::with_password).transpose()?;
        Ok(KafkaConnection::new(self.servers).with(|it| {
            it.tls = self.is_encrypted.then(KafkaTls::default);
            it.sasl = sasl;
        }))
    }
}

impl Login<'_> {
    /// Returns the login with the password from the environment.
    #[expect(clippy::disallowed_methods, reason = "a secret does not belong in flags, which others can see")]
    fn with_password(self) -> Result<KafkaSasl> {
        let Self { user, mechanism } = self;
        let password = std::env::var("KAFKA_PASSWORD").ok().filter(|password| !password.is_empty());
        let password = password.ok_or_else(|| Error::config("the topic's url has a user: set KAFKA_PASSWORD"))?;
        Ok(KafkaSasl { mechanism, user: user.to_owned(), password })
    }
}

impl Options {
    fn parse(text: &str) -> Result<Self> {
        let mut options = Self::default();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let mechanism = match option {
                "tls" => {
                    options.is_encrypted = true;
                    continue;
                }
                "stop-at-end" => {
                    options.reading.stops_at_end = true;
                    continue;
                }
                "latest" => {
                    options.reading.starts_at_latest = true;
                    continue;
                }
                "plain" => KafkaSaslMechanism::Plain,
                "scram256" => KafkaSaslMechanism::ScramSha256,
                "scram512" => KafkaSaslMechanism::ScramSha512,
                _ => {
                    let why = "a topic's url takes ?tls, one of plain, scram256 and scram512, stop-at-end, and latest";
                    return Err(Error::config(why));
                }
            };
            if options.mechanism.replace(mechanism).is_some() {
                return Err(Error::config("a topic's url takes one of plain, scram256 and scram512"));
            }
        }
        Ok(options)
    }
}

fn is_server(server: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    server.rsplit_once(':').is_some_and(|(host, number)| !host.is_empty() && port(number))
}

fn is_topic(name: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let has_length = (1..=TOPIC_BYTES_MAX).contains(&name.len());
    has_length && name.bytes().all(is_legal) && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use alluvium::ErrorKind;

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let reading = Reading::default();
        let plain = Place { servers: "a:9092", topic: "clicks", is_encrypted: false, login: None, reading };
        assert_eq!(Place::parse("a:9092/clicks").unwrap(), plain);
        let login = Some(Login { user: "me@corp", mechanism: KafkaSaslMechanism::ScramSha256 });
        let full = Place { servers: "a:9092,[::1]:9093", topic: "a.b_c-D", is_encrypted: true, login, reading };
        assert_eq!(Place::parse("me@corp@a:9092,[::1]:9093/a.b_c-D?tls&scram256").unwrap(), full);
        for (name, mechanism) in [("plain", KafkaSaslMechanism::Plain), ("scram512", KafkaSaslMechanism::ScramSha512)] {
            let url = format!("me@a:1/t?{name}");
            assert_eq!(Place::parse(&url).unwrap().login, Some(Login { user: "me", mechanism }));
        }
    }

    #[test]
    fn an_input_says_where_it_starts_and_ends() {
        let reading = |options: &str| Place::parse(&format!("a:1/t?{options}")).unwrap().reading;
        assert_eq!(reading("stop-at-end"), Reading { stops_at_end: true, starts_at_latest: false });
        assert_eq!(reading("tls&latest"), Reading { stops_at_end: false, starts_at_latest: true });
        source("a:1/t?latest&stop-at-end").unwrap();
        let error = target("a:1/t?latest").unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.chain().contains("for an --input"), "{}", error.chain());
    }

    #[test]
    fn an_output_to_the_topic_of_the_input_is_refused() {
        let check = |output: &str| {
            check_loop(&"kafka://h:1,i:1/t?stop-at-end".parse().unwrap(), Some(&output.parse().unwrap()))
        };
        for bad in ["kafka://h:1/t", "kafka://me@i:1,h:1/t?plain"] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Config);
        }
        for fine in ["kafka://h:1/u", "kafka://g:1/t", "s3://h:1/t"] {
            check(fine).unwrap();
        }
    }

    #[test]
    fn malformed_urls_are_refused() {
        let long = format!("a:1/{}", "t".repeat(TOPIC_BYTES_MAX + 1));
        let malformed = [
            "",
            "a:1",
            "/t",
            "a:1/",
            "a:1/t/u",
            "a:1//t",
            "a:1/..",
            "a:1/t t",
            "a/t",
            "a:/t",
            "a:0/t",
            "a:65536/t",
            ":1/t",
            "a:1,/t",
            "@a:1/t?plain",
            &long,
        ];
        let others = [
            ("a:1/t?ssl", "takes ?tls"),
            ("a:1/t?tls=true", "takes ?tls"),
            ("me@a:1/t?plain&scram256", "takes one of"),
            ("me@a:1/t", "needs ?plain"),
            ("a:1/t?plain", "needs a user"),
        ];
        for (bad, part) in malformed.into_iter().map(|bad| (bad, "url is kafka://")).chain(others) {
            let error = Place::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(error.chain().contains(part), "{bad}: {}", error.chain());
        }
    }

    #[test]
    fn a_misplaced_password_is_refused_and_not_shown() {
        for bad in [
            "me:hunter2@a:1/t?plain",
            "me:hunter2@a:1",
            "me:hunter2@a:1/t?ssl",
            "me:7/hunter2@a:1/t?plain",
            "me:7?hunter2@a:1/t",
            "me@a:1/t?password=hunter2",
        ] {
            let error = Place::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(!format!("{error:?} {}", error.chain()).contains("hunter2"), "{}", error.chain());
        }
    }

    #[test]
    fn a_record_has_key_and_window_as_its_key_and_the_row_as_its_value() {
        let output = Output::of(&["k", "window_start", "min_x"], 1);
        let cells = csv::StringRecord::from(vec!["a", "1970-01-01T00:00:00Z", ""]);
        let mut bytes = Vec::new();
        write(&output, &OutputRow { cells, window: Some(0) }, &mut bytes).unwrap();
        let record = KafkaRecord::new(
            r#"{"k":"a","window_start":"1970-01-01T00:00:00Z"}"#,
            r#"{"k":"a","min_x":null,"window_start":"1970-01-01T00:00:00Z"}"#,
        );
        assert_eq!(KafkaRecord::from_bytes(bytes.into()).unwrap(), record);
    }
}
