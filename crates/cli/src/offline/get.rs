//! `alluvium get`: the rows of one key.

use serde::Serialize;
use serde_json::value::RawValue;

use alluvium::offline::{self, RowTypes, TableRow};
use alluvium::schema::Value;
use alluvium::{Error, RequestCounts, Result, Store, StoredManifest};

use super::super::{Finding, print};
use super::key;
use super::place::CheckpointArgs;
use super::rows::{Format, RowWriter};
use super::value::json;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    at: CheckpointArgs,
    /// Name of the table; OPERATOR.TABLE if several operators have a table of that name
    #[arg(long, short, value_name = "T")]
    table: String,
    /// Name of the table's operator
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// The key, as `export` prints it in CSV
    ///
    /// Text and numbers as they are, bytes as 0x and hexadecimal digits, tuples and lists as JSON. A struct is a line with a
    /// cell for each of its columns, quoted as in CSV if need be, or a JSON object.
    #[arg(long, short, value_name = "K", allow_hyphen_values = true)]
    key: String,
    /// Print one JSON document, with the requests and bytes that were needed
    #[arg(long)]
    json: bool,
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    checkpoint: u64,
    operator: &'a str,
    table: &'a str,
    key: Option<Box<RawValue>>,
    key_group: Option<u16>,
    rows: Vec<Row>,
    store: Reads,
}

/// The parts of a row beside its key; those that the table does not have are left out.
#[derive(Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
}

/// Requests to the store, those for finding the checkpoint included.
#[derive(Serialize)]
struct Reads {
    gets: u64,
    lists: u64,
    bytes_read: u64,
}

impl From<RequestCounts> for Reads {
    fn from(counts: RequestCounts) -> Self {
        Self { gets: counts.get, lists: counts.list, bytes_read: counts.get_bytes }
    }
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    let output = args.at.read_stored(async |store, checkpoint| get(&args, store, checkpoint).await).await?;
    print::bytes(&output.text)?;
    if output.rows == 0 {
        let error = Error::not_found("the table has no such key").with("table", &args.table);
        return Err(error.with("key", &args.key).with("checkpoint", output.checkpoint));
    }
    Ok(Finding::Nothing)
}

/// What to print.
struct Output {
    checkpoint: u64,
    rows: u64,
    text: Vec<u8>,
}

async fn get(args: &Args, store: &Store, checkpoint: &StoredManifest) -> Result<Output> {
    let manifest = &checkpoint.manifest;
    let name =
        args.operator.as_ref().map_or_else(|| args.table.clone(), |operator| format!("{operator}.{}", args.table));
    let (operator, table) = offline::find_table(manifest, &name)?;
    let types = RowTypes::of(table);
    let key = key::parse(&types.key, &args.key)?;
    let mut document = Document {
        checkpoint: checkpoint.id.seq.0,
        operator: &operator.name,
        table: &table.name,
        key: raw(&alluvium::schema::decode_any(&types.key, &key)?)?,
        key_group: None,
        rows: Vec::new(),
        store: store.requests().into(),
    };
    let mut text = Vec::new();
    let mut csv = RowWriter::new(Format::Csv, types.clone(), &mut text)?;
    let each = |row: TableRow<'_>| {
        document.key_group = Some(row.group.0);
        if !args.json {
            return csv.write(&row);
        }
        let [namespace, sub, value] = [raw(&row.place.namespace)?, raw(&row.place.sub)?, raw(&row.value)?];
        document.rows.push(Row { namespace, sub, value });
        Ok(())
    };
    let rows = offline::get(store, manifest, &name, &key, each).await?;
    csv.finish()?;
    if args.json {
        document.store = store.requests().into();
        text = serde_json::to_vec_pretty(&document).map_err(unprintable)?;
        text.push(b'\n');
    } else if rows == 0 {
        text.clear();
    }
    Ok(Output { checkpoint: document.checkpoint, rows, text })
}

/// Returns a value as JSON; `None` for a part that the table does not have.
fn raw(value: &Value<'_>) -> Result<Option<Box<RawValue>>> {
    if *value == Value::Unit {
        return Ok(None);
    }
    RawValue::from_string(json(value)?).map(Some).map_err(unprintable)
}

fn unprintable(source: serde_json::Error) -> Error {
    Error::corrupt("row has no JSON").with_source(source)
}
