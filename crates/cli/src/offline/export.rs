//! `alluvium export`: a table's rows as CSV or JSON lines.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use alluvium::offline::{self, RowTypes};
use alluvium::{Result, Store, StoredManifest};
use serde_json::json;

use super::super::{Finding, print};
use super::place::{CheckpointArgs, Groups, runtime};
use super::rows::{Format, RowWriter};
use crate::files::{check_not_special, folder_of, io_error, rename_durably};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    at: CheckpointArgs,
    /// Name of the table; OPERATOR.TABLE if several operators have a table of that name
    #[arg(long, short, value_name = "T")]
    table: String,
    /// File to write atomically; its extension sets the format
    ///
    /// CSV: a column each for key, namespace, sub-key and value, or one per field of a struct; null is an empty cell,
    /// bytes are hexadecimal, lists are JSON. JSON lines keep the structure.
    #[arg(long, short, value_name = "F.csv|F.jsonl")]
    output: Output,
    /// Export these key groups only
    #[arg(long, value_name = "A..B")]
    key_groups: Option<Groups>,
    /// Print a summary as one JSON document
    #[arg(long)]
    json: bool,
}

/// A file to write, with its format.
#[derive(Debug, Clone)]
struct Output {
    path: PathBuf,
    format: Format,
}

impl FromStr for Output {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = PathBuf::from(text);
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Format::Csv,
            Some("jsonl") => Format::Jsonl,
            _ => return Err("the name ends with .csv or .jsonl"),
        };
        Ok(Self { path, format })
    }
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    let write = async |store: &Store, checkpoint: &StoredManifest| {
        let manifest = &checkpoint.manifest;
        let (_, table) = offline::find_table(manifest, &args.table)?;
        let groups = Groups::of(args.key_groups, manifest.max_parallelism)?;
        let types = RowTypes::of(table);
        let mut file = StagedFile::create(&args.output.path)?;
        let mut writer = RowWriter::new(args.output.format, types, &mut file.writer)?;
        let rows = offline::export(store, manifest, &args.table, &groups, |entry| writer.write(&entry)).await?;
        writer.finish()?;
        file.publish()?;
        Ok((checkpoint.id.seq, rows))
    };
    let (checkpoint, rows) = args.at.read(async |store, _, checkpoint| write(store, checkpoint).await).await?;
    if args.json {
        let output = args.output.path.display().to_string();
        print::json(&json!({ "checkpoint": checkpoint.0, "table": args.table, "rows": rows, "output": output }))?;
    } else {
        print::out(&format!("wrote {rows} rows to {}\n", args.output.path.display()))?;
    }
    Ok(Finding::Nothing)
}

/// A file under a temporary name beside its target; removed if dropped before `publish`.
struct StagedFile {
    staged: PathBuf,
    target: PathBuf,
    writer: BufWriter<File>,
}

impl StagedFile {
    fn create(target: &Path) -> Result<Self> {
        check_not_special(target)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let staged = folder_of(target).join(format!(".{name}.{:032x}.tmp", runtime().random()));
        let file = OpenOptions::new().write(true).create_new(true).open(&staged);
        let file = file.map_err(|source| io_error("cannot create file", &staged, source))?;
        Ok(Self { staged, target: target.to_owned(), writer: BufWriter::new(file) })
    }

    fn publish(mut self) -> Result<()> {
        let synced = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        synced.map_err(|source| io_error("cannot write file", &self.staged, source))?;
        rename_durably(&self.staged, &self.target)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // Fails harmlessly after a rename.
        let _renamed = fs::remove_file(&self.staged);
    }
}
