//! Maps, cells and peers side by side, for the table and the chart.

use super::report::{CellReport, Figures, PeerReport, Report};

/// A figure, and the least and the greatest of all turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

/// What is compared. A row has no figure for what it cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Writes of new keys per second.
    Load,
    /// Read-modify-writes per second, one by one.
    Update,
    /// The same in batches.
    Batch,
    /// Median time a checkpoint keeps the writer waiting, in microseconds.
    Pause,
    /// Median time until a checkpoint is durable, in milliseconds.
    Checkpoint,
    /// Time until a checkpoint is loaded, in milliseconds.
    Loaded,
    /// Time until the first key is read, in milliseconds.
    FirstRead,
    /// Time to read every key after that, in milliseconds.
    ReadBack,
}

/// One map, cell or peer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    figures: Vec<(Column, Figure)>,
}

impl Row {
    pub(super) fn get(&self, column: Column) -> Option<Figure> {
        self.figures.iter().find(|(of, _)| *of == column).map(|(_, figure)| *figure)
    }
}

type Named = (String, Vec<(Column, f64)>);

/// Returns the rows with as many keys as the maps, touched uniformly on one thread.
pub(super) fn rows(report: &Report) -> Vec<Row> {
    let turns: Vec<_> = report.turns.iter().map(named).collect();
    let rows = named(&report.figures).into_iter().enumerate().map(|(at, (name, figures))| {
        let figures = figures.into_iter().map(|(column, median)| {
            let of = |turn: &Vec<Named>| Some(turn.get(at)?.1.iter().find(|(of, _)| *of == column)?.1);
            let (mut least, mut greatest) = (median, median);
            for figure in turns.iter().filter_map(of) {
                (least, greatest) = (least.min(figure), greatest.max(figure));
            }
            (column, Figure { median, least, greatest })
        });
        Row { name, figures: figures.collect() }
    });
    rows.collect()
}

fn named(figures: &Figures) -> Vec<Named> {
    let Figures { limits, cells, peers } = figures;
    let map = |name: &str, rate| (name.to_owned(), vec![(Column::Update, rate)]);
    let mut rows = vec![
        map("map", limits.hashmap_rmw_ops_s.uniform),
        map("map of u64 counters", limits.hashmap_u64_rmw_ops_s.uniform),
    ];
    let alike =
        |cell: &&CellReport| cell.keys == limits.keys && cell.distribution == "uniform" && cell.parallelism == 1;
    rows.extend(cells.iter().filter(alike).map(cell));
    rows.extend(peers.iter().map(peer));
    rows
}

fn cell(cell: &CellReport) -> Named {
    let figures = vec![
        (Column::Load, cell.load_ops_s),
        (Column::Update, cell.rmw_ops_s),
        (Column::Batch, cell.rmw_batch_ops_s),
        (Column::Pause, cell.pause_us.p50),
        (Column::Checkpoint, cell.checkpoint_ms.p50),
        (Column::Loaded, cell.restore.load_ms),
        (Column::FirstRead, cell.restore.first_read_ms),
        (Column::ReadBack, cell.restore.read_back_ms),
    ];
    (format!("alluvium {} {} dirty {}", cell.backend, cell.strategy, cell.dirty), figures)
}

fn peer(peer: &PeerReport) -> Named {
    let figures = vec![
        (Column::Load, peer.load_ops_s),
        (Column::Update, peer.rmw_ops_s),
        (Column::Pause, peer.pause_us.p50),
        (Column::Checkpoint, peer.checkpoint_ms.p50),
        (Column::Loaded, peer.restore.load_ms),
        (Column::FirstRead, peer.restore.first_read_ms),
        (Column::ReadBack, peer.restore.read_back_ms),
    ];
    (format!("{} dirty {}", peer.peer, peer.dirty), figures)
}
