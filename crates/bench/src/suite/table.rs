//! The figures as text.

use super::report::{CellReport, Paced, Report};

/// Returns the report as aligned tables.
pub(super) fn text(report: &Report) -> String {
    let limits = &report.limits;
    let mut text = format!("machine  {}\n", report.machine.line());
    text.push_str(&format!(
        "limits   memcpy {:.1} GB/s, zstd-1 {:.0} MB/s, store write {:.0} MB/s, idle gap {:.0} us\n",
        limits.memcpy_gb_s, limits.zstd1_mb_s, limits.store_write_mb_s, limits.idle_gap_us,
    ));
    text.push_str(&format!(
        "         hash map of {} keys: {} updates/s uniform, {} zipf:0.99\n",
        limits.keys,
        count(limits.hashmap_rmw_ops_s.uniform),
        count(limits.hashmap_rmw_ops_s.zipf),
    ));
    text.push_str(&format!("values   zstd-1 ratio {:.2}\n", limits.value_zstd1_ratio));
    let paced = report.cells.iter().any(|cell| cell.paced.is_some());
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
        text.push_str(&table(&report.cells, columns));
    }
    text
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
    ("restore ms", |c| format!("{:.0}", c.restore.ms)),
    ("claim", |c| format!("{:.0}", c.restore.claim_ms)),
    ("first read", |c| format!("{:.0}", c.restore.first_read_ms)),
    ("threads", |c| c.restore.threads.to_string()),
    ("bytes read", |c| c.restore.bytes_read.to_string()),
    ("rescale", |c| format!("{} -> {}", c.rescale.from, c.rescale.to)),
    ("ms", |c| format!("{:.0}", c.rescale.ms)),
    ("bytes of ideal", |c| percent(c.rescale.bytes_read, c.rescale.ideal_bytes)),
];

/// Returns one line per cell, columns aligned: text to the left, numbers to the right.
fn table(cells: &[CellReport], columns: &[Column]) -> String {
    let columns: Vec<_> = CELL.iter().chain(columns).collect();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    lines.extend(cells.iter().map(|cell| columns.iter().map(|(_, show)| show(cell)).collect()));
    let widths: Vec<_> = (0..columns.len())
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(String::len).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for line in &lines {
        for (at, (item, width)) in line.iter().zip(&widths).enumerate() {
            let item = if at < 2 { format!("{item:<width$}  ") } else { format!("{item:>width$}  ") };
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
}
