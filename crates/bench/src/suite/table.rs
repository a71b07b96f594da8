//! The figures as text.

use super::comparison::{self, Column as Compared, Figure, Row};
use super::report::{CellReport, HashMapRates, Paced, Report};

/// Returns the report as aligned tables.
pub(super) fn text(report: &Report) -> String {
    let limits = &report.figures.limits;
    let mut text = format!("machine  {}\n", report.machine.line());
    text.push_str(&format!(
        "limits   memcpy {:.1} GB/s, zstd-1 {:.0} MB/s, store write {:.0} MB/s, idle gap {:.0} us\n",
        limits.memcpy_gb_s, limits.zstd1_mb_s, limits.store_write_mb_s, limits.idle_gap_us,
    ));
    let map = |what: &str, rates: &HashMapRates| {
        let (uniform, zipf) = (count(rates.uniform), count(rates.zipf));
        format!("         hash map of {} {what}: {uniform} updates/s uniform, {zipf} zipf:0.99\n", limits.keys)
    };
    text.push_str(&map("keys", &limits.hashmap_rmw_ops_s));
    text.push_str(&map("u64 counters", &limits.hashmap_u64_rmw_ops_s));
    text.push_str(&format!("values   zstd-1 ratio {:.2}\n", limits.value_zstd1_ratio));
    if report.turns.len() > 1 {
        text.push_str(&format!("turns    {}: figures are medians, ranges in brackets\n", report.turns.len()));
    }
    let paced = report.figures.cells.iter().any(|cell| cell.paced.is_some());
    let mut tables = vec![
        ("operations per second", OPERATIONS),
        ("memory in bytes per key, requests per checkpoint", MEMORY),
        ("checkpoints", CHECKPOINTS),
        ("restores", RESTORES),
    ];
    tables
        .extend(paced.then_some(("a tenth of the keys dirty per second, beside the same without checkpoints", PACED)));
    for (title, columns) in tables {
        text.push_str(&format!("\n{title}\n"));
        text.push_str(&table(&report.figures.cells, columns));
    }
    text.push_str("\nbeside plain maps and other stores, uniform, one thread\n");
    text.push_str(&compared(report));
    text
}

/// Returns one line per map, cell and peer.
fn compared(report: &Report) -> String {
    let rows = comparison::rows(report);
    let map = rows.first().and_then(|row| row.get(Compared::Update)).map_or(f64::NAN, |figure| figure.median);
    let ranged = report.turns.len() > 1;
    let figure = |row: &Row, column, show: fn(f64) -> String| {
        let text = |Figure { median, least, greatest }| match ranged {
            true => format!("{} [{}, {}]", show(median), show(least), show(greatest)),
            false => show(median),
        };
        row.get(column).map_or_else(|| "-".to_owned(), text)
    };
    let line = |row: &Row| {
        vec![
            row.name.clone(),
            figure(row, Compared::Load, count),
            figure(row, Compared::Update, count),
            row.get(Compared::Update).map_or_else(String::new, |update| format!("{:.2}x", update.median / map)),
            figure(row, Compared::Batch, count),
            figure(row, Compared::Pause, integer),
            figure(row, Compared::Checkpoint, short),
            figure(row, Compared::Loaded, short),
            figure(row, Compared::FirstRead, short),
            figure(row, Compared::ReadBack, short),
        ]
    };
    let headings = [
        "",
        "load",
        "update",
        "of map",
        "in batches",
        "pause us p50",
        "checkpoint ms p50",
        "loaded ms",
        "first read ms",
        "read back ms",
    ];
    let headings = headings.map(str::to_owned).to_vec();
    aligned(&[vec![headings], rows.iter().map(line).collect()].concat(), 1)
}

/// A column: its heading and how to format a cell's figure.
type Column = (&'static str, fn(&CellReport) -> String);

const CELL: [Column; 5] = [
    ("backend", |c| c.backend.clone()),
    ("strategy", |c| c.strategy.clone()),
    ("keys", |c| c.keys.to_string()),
    ("touched", |c| c.distribution.clone()),
    ("dirty", |c| c.dirty.to_string()),
];

const OPERATIONS: &[Column] = &[
    ("load", |c| count(c.load_ops_s)),
    ("update", |c| count(c.rmw_ops_s)),
    ("beside zstd-1", |c| count(c.rmw_ops_s_beside_zstd)),
    ("in checkpoint", |c| optional(c.rmw_ops_s_during_checkpoint, count)),
    ("after seal", |c| optional(c.first_10k_ops_s_after_seal, count)),
    ("longest us", |c| format!("{:.0}", c.max_op_us)),
];

const MEMORY: &[Column] = &[
    ("RSS loaded", |c| optional(c.rss_bytes_per_key.loaded, integer)),
    ("steady", |c| optional(c.rss_bytes_per_key.steady, integer)),
    ("pinned", |c| integer(c.pinned_bytes_per_key)),
    ("puts", |c| format!("{:.1}", c.requests.put)),
    ("gets", |c| format!("{:.1}", c.requests.get)),
    ("lists", |c| format!("{:.1}", c.requests.list)),
];

const CHECKPOINTS: &[Column] = &[
    ("pause us p50", |c| integer(c.pause_us.p50)),
    ("p99", |c| integer(c.pause_us.p99)),
    ("max", |c| integer(c.pause_us.max)),
    ("ms p50", |c| format!("{:.1}", c.checkpoint_ms.p50)),
    ("p99", |c| format!("{:.1}", c.checkpoint_ms.p99)),
    ("bytes", |c| c.checkpoint_bytes.to_string()),
    ("of full", |c| percent(c.checkpoint_bytes, c.full_bytes)),
    ("of zstd-1", |c| percent(c.checkpoint_bytes, c.dirty_zstd1_bytes)),
];

const PACED: &[Column] = &[
    ("update", |c| paced(c, |p| count(p.rmw_ops_s))),
    ("of without", |c| paced(c, |p| format!("{:.1}%", p.rmw_ops_s / p.rmw_ops_s_without * 100.0))),
    ("longest us", |c| paced(c, |p| integer(p.max_op_us))),
    ("without", |c| paced(c, |p| integer(p.max_op_us_without))),
    ("pause us p99", |c| paced(c, |p| integer(p.pause_us.p99))),
    ("RSS/key", |c| paced(c, |p| optional(p.rss_bytes_per_key, integer))),
    ("pinned/key", |c| paced(c, |p| integer(p.pinned_bytes_per_key))),
];

const RESTORES: &[Column] = &[
    ("claim ms", |c| short(c.restore.claim_ms)),
    ("loaded", |c| short(c.restore.load_ms)),
    ("first read", |c| short(c.restore.first_read_ms)),
    ("then read back", |c| short(c.restore.read_back_ms)),
    ("threads", |c| c.restore.threads.to_string()),
    ("bytes read", |c| c.restore.bytes_read.to_string()),
    ("rescale", |c| format!("{} -> {}", c.rescale.from, c.rescale.to)),
    ("loaded", |c| short(c.rescale.load_ms)),
    ("then read back", |c| short(c.rescale.ms - c.rescale.load_ms)),
    ("bytes of ideal", |c| percent(c.rescale.bytes_read, c.rescale.ideal_bytes)),
];

/// Returns one line per cell.
fn table(cells: &[CellReport], columns: &[Column]) -> String {
    let columns: Vec<_> = CELL.iter().chain(columns).collect();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    lines.extend(cells.iter().map(|cell| columns.iter().map(|(_, show)| show(cell)).collect()));
    aligned(&lines, 2)
}

/// Returns `lines` with columns aligned: the first `names` to the left, numbers to the right.
fn aligned(lines: &[Vec<String>], names: usize) -> String {
    let widths: Vec<_> = (0..lines.first().map_or(0, Vec::len))
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(String::len).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for line in lines {
        for (at, (item, width)) in line.iter().zip(&widths).enumerate() {
            let item = if at < names { format!("{item:<width$}  ") } else { format!("{item:>width$}  ") };
            text.push_str(&item);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Returns a large number in thousands or millions, with meaningful digits only.
fn count(number: f64) -> String {
    if number < 1e6 { format!("{:.0}k", number / 1e3) } else { format!("{:.2}M", number / 1e6) }
}

fn integer(number: f64) -> String {
    format!("{number:.0}")
}

fn short(millis: f64) -> String {
    if millis < 10.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

fn paced(cell: &CellReport, show: impl Fn(&Paced) -> String) -> String {
    cell.paced.as_ref().map_or_else(|| "-".to_owned(), show)
}

fn optional(number: Option<f64>, show: impl Fn(f64) -> String) -> String {
    number.map_or_else(|| "-".to_owned(), show)
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2}%", part as f64 / whole as f64 * 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([count(12_345.0), count(3_456_789.0)], ["12k", "3.46M"]);
        assert_eq!([percent(1, 3), percent(1, 0), optional(None, count)], ["33.33%", "-", "-"]);
    }
    #[test]
    fn loading_and_reading_back_are_apart() {
        let text = text(&crate::suite::sample::report());
        let (_, restores) = text.split_once("\nrestores\n").unwrap();
        let line = |at: usize| restores.lines().nth(at).unwrap().split("  ").map(str::trim).filter(|it| !it.is_empty());
        let column = |name: &str| line(1).nth(line(0).position(|heading| heading == name).unwrap()).unwrap().to_owned();
        assert_eq!([column("loaded"), column("then read back")], ["230", "141"]);
    }

    #[test]
    fn maps_cells_and_peers_share_a_table() {
        let text = text(&crate::suite::sample::report());
        let (_, rows) = text.split_once("\nbeside plain maps and other stores").unwrap();
        let row = |name: &str| {
            let line = rows.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("map  "), "map - 12.00M [10.00M, 14.00M] 1.00x - - - - - -");
        assert!(row("map of u64 counters").contains(" 1.67x "));
        assert!(row("alluvium log incremental dirty 0.1").contains(" 0.50x "));
        let cobble = "cobble dirty 0.1 1.00M [1.00M, 1.00M] 3.00M [3.00M, 3.00M] 0.25x - 80 [80, 80]";
        assert!(row("cobble").starts_with(cobble), "{}", row("cobble"));
        assert!(!rows.contains("overlay"), "touched by zipf: {rows}");
    }
}
