//! Output of closed windows: to a folder through one sink for all subtasks, to other systems through the sinks of the subtasks.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use alluvium::manifest::RecordSum;
use alluvium::sink::{Divergence, FolderTarget, ObjectStoreTarget, Sink, SinkSettings, SinkTarget};
use alluvium::{Error, Result, Seat, TokioRuntime};

use super::args::RunArgs;
use super::output::{Output, OutputRow};
use super::program::{Emit, Program};

/// Name of the sink in checkpoints, and in the names of its slots.
const SINK: &str = "output";

/// How long a local folder may refuse output, full as it may be, until the run ends.
const FOLDER_PATIENCE: Duration = Duration::from_secs(30);

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputPlace {
    /// A file or a folder.
    Path(PathBuf),
    /// Another system, by URL.
    Url(String),
}

impl FromStr for OutputPlace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("file", _)) => Err(Error::config("--output takes a file or folder as a path, without file://")),
            Some(_) => Ok(Self::Url(text.to_owned())),
            None => Ok(Self::Path(PathBuf::from(text))),
        }
    }
}

impl OutputPlace {
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Url(_) => None,
        }
    }
}

/// Output to a folder.
#[derive(Debug, Clone)]
pub(crate) struct FolderOutput {
    pub(crate) target: FolderTarget,
    output: Output,
    settings: SinkSettings,
}

impl FolderOutput {
    /// Returns the output to the folder of `--output`, if that takes the rows of closed windows.
    ///
    /// # Errors
    /// None: rows have a header.
    pub(crate) fn open(args: &RunArgs, program: &Program, runtime: TokioRuntime) -> Result<Option<Self>> {
        let folder = args.output.as_ref().and_then(OutputPlace::path).filter(|_| program.emit == Emit::OnClose);
        let Some(folder) = folder else { return Ok(None) };
        let (output, mut header) = (Output::new(program), Vec::new());
        output.write(&[], &mut header)?;
        let described = format!("{} at {}", args.job, args.store);
        let target = FolderTarget::new(folder, runtime).with_form(header, ".csv").described(described);
        // The rows of an epoch are in memory anyway, and epochs in flight are bounded.
        let settings = settings(args.publish_again).with(|it| {
            it.max_unpublished_bytes = u64::MAX;
            it.patience = Some(FOLDER_PATIENCE);
        });
        Ok(Some(Self { target, output, settings }))
    }

    /// Registers the output with the sink's seat.
    ///
    /// # Errors
    /// As [`Seat::add_staged_sink`].
    pub(crate) fn register(&self, seat: &mut Seat) -> Result<SubtaskOutput> {
        let sink = seat.add_staged_sink(SINK, Arc::new(self.target.clone()), self.settings)?;
        Ok(SubtaskOutput { sink, form: Form::Csv, output: self.output.clone() })
    }
}

/// * `publish_again`: continue although the target has other output than the restored checkpoint knows.
fn settings(publish_again: bool) -> SinkSettings {
    let divergence = if publish_again { Divergence::Continue } else { Divergence::Refuse };
    SinkSettings::default().with(|it| it.divergence = divergence)
}

/// Output to another system.
#[derive(Debug, Clone)]
pub(crate) struct RemoteOutput {
    target: Arc<dyn SinkTarget>,
    form: Form,
    output: Output,
    settings: SinkSettings,
}

/// The form of a record.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// A line of CSV.
    Csv,
    /// A JSON object with a string, or null for an empty cell, for each column.
    Json,
    /// A Kafka record: the same object as its value, and one of the key columns and the window's start as its key.
    #[cfg(feature = "kafka")]
    Kafka,
}

impl RemoteOutput {
    /// Returns the output to `place`, if that is a URL. Makes no request.
    ///
    /// * `publish_again`: continue although the target has other output than the restored checkpoint knows.
    ///
    /// # Errors
    /// `Config` if the URL is malformed or names a system that this build lacks, or if the program writes one file at its end.
    pub(crate) fn open(place: &OutputPlace, program: &Program, publish_again: bool) -> Result<Option<Self>> {
        let OutputPlace::Url(url) = place else { return Ok(None) };
        if program.emit == Emit::End {
            return Err(Error::config("an --output URL needs --emit on-close"));
        }
        let output = Output::new(program);
        let (target, form): (Arc<dyn SinkTarget>, _) = match url.split_once("://") {
            Some(("postgres" | "postgresql", _)) => (postgres(url, program)?, Form::Json),
            #[cfg(feature = "kafka")]
            Some(("kafka", rest)) => (super::kafka::target(rest)?, Form::Kafka),
            #[cfg(not(feature = "kafka"))]
            Some(("kafka", _)) => return Err(lacks("Kafka", "kafka")),
            _ => {
                let mut header = Vec::new();
                output.write(&[], &mut header)?;
                (Arc::new(ObjectStoreTarget::open(url)?.with_form(header, ".csv")), Form::Csv)
            }
        };
        Ok(Some(Self { target, form, output, settings: settings(publish_again) }))
    }

    /// Checks, before the job is claimed, that output can be published.
    ///
    /// # Errors
    /// From the target.
    pub(crate) async fn check(&self) -> Result<()> {
        self.target.check().await
    }

    /// Registers the output with a subtask's seat.
    ///
    /// # Errors
    /// As [`Seat::add_sink`].
    pub(crate) fn register(&self, seat: &mut Seat) -> Result<SubtaskOutput> {
        let sink = seat.add_sink(SINK, Arc::clone(&self.target), self.settings)?;
        Ok(SubtaskOutput { sink, form: self.form, output: self.output.clone() })
    }
}

/// A subtask's output to a folder or to another system.
#[derive(Debug)]
pub(crate) struct SubtaskOutput {
    pub(crate) sink: Sink,
    form: Form,
    output: Output,
}

impl SubtaskOutput {
    /// Emits the rows of closed windows, sorted.
    ///
    /// # Errors
    /// As [`Sink::emit`].
    pub(crate) fn emit(&mut self, mut rows: Vec<OutputRow>) -> Result<()> {
        self.output.sort(&mut rows);
        let mut record = Vec::new();
        for row in &rows {
            record.clear();
            match self.form {
                Form::Csv => Output::write_row(&row.cells, &mut record)?,
                Form::Json => self.output.write_json(row, &mut record)?,
                #[cfg(feature = "kafka")]
                Form::Kafka => super::kafka::write(&self.output, row, &mut record)?,
            }
            self.sink.emit(&record)?;
        }
        Ok(())
    }
}

/// Returns the sum of all records of a topic, each in the form in which it was emitted.
///
/// # Errors
/// From the brokers.
#[cfg(feature = "kafka")]
pub(crate) async fn topic_sum(rest: &str) -> Result<RecordSum> {
    super::kafka::topic_sum(rest).await
}

#[cfg(not(feature = "kafka"))]
pub(crate) async fn topic_sum(_rest: &str) -> Result<RecordSum> {
    Err(lacks("Kafka", "kafka"))
}

/// Returns the number of rows of a table.
///
/// # Errors
/// From the server.
#[cfg(feature = "postgres")]
pub(crate) async fn row_count(url: &str, program: &Program) -> Result<u64> {
    table(url, program)?.count().await
}

#[cfg(not(feature = "postgres"))]
pub(crate) async fn row_count(_url: &str, _program: &Program) -> Result<u64> {
    Err(lacks("PostgreSQL", "postgres"))
}

#[cfg(feature = "postgres")]
fn postgres(url: &str, program: &Program) -> Result<Arc<dyn SinkTarget>> {
    Ok(Arc::new(table(url, program)?))
}

/// Returns the table at `postgres://user@host:port/database/table`, in which keys and windows replace their former rows.
#[cfg(feature = "postgres")]
fn table(url: &str, program: &Program) -> Result<alluvium_postgres::PostgresTarget> {
    use alluvium_postgres::{PostgresSettings, PostgresTarget};
    let malformed = || Error::config("a table's url is postgres://user@host:port/database/table");
    let mut server = url::Url::parse(url).map_err(|_| malformed())?;
    if server.password().is_some() {
        return Err(Error::config("a password does not belong in a url: set PGPASSWORD"));
    }
    let path = server.path().to_owned();
    let (database, table) = path
        .rsplit_once('/')
        .filter(|(database, table)| database.len() > 1 && !table.is_empty())
        .ok_or_else(malformed)?;
    server.set_path(database);
    let window = program.window.iter().map(|_| "window_start".to_owned());
    let key = program.key.iter().cloned().chain(window).collect();
    let settings = PostgresSettings::new(server.as_str(), table).with(|it| it.key = key);
    PostgresTarget::new(settings)
}

#[cfg(not(feature = "postgres"))]
fn postgres(_url: &str, _program: &Program) -> Result<Arc<dyn SinkTarget>> {
    Err(lacks("PostgreSQL", "postgres"))
}

/// Returns the error for a system that this build lacks.
#[cfg(not(all(feature = "kafka", feature = "postgres")))]
pub(super) fn lacks(system: &str, feature: &str) -> Error {
    Error::config(format!("this build lacks {system}: build it with the feature `{feature}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_told_apart() {
        assert_eq!("out.csv".parse::<OutputPlace>().unwrap(), OutputPlace::Path(PathBuf::from("out.csv")));
        assert_eq!("s3://b/p".parse::<OutputPlace>().unwrap(), OutputPlace::Url("s3://b/p".to_owned()));
        assert!("file:///x".parse::<OutputPlace>().is_err());
    }
}
