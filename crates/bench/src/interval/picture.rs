//! Plots the controller's first run over time: load, dirty rate, chosen interval, failures.

use std::ops::Range;
use std::path::Path;

use alluvium::{Error, Result};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use super::compare::{Case, Comparison};

const SIZE: (u32, u32) = (1100, 780);

/// Points per curve: about one per pixel.
const POINTS: usize = 1000;

const LOAD: RGBColor = RGBColor(31, 119, 180);
const DIRTY: RGBColor = RGBColor(44, 140, 60);
const CHOSEN: RGBColor = RGBColor(200, 90, 20);
const FAILURE: RGBColor = RGBColor(200, 30, 40);

/// A curve over time, in seconds.
type Curve = Vec<(f64, f64)>;

/// Plots the first run into `path`, as SVG.
///
/// # Errors
/// `Unavailable` if the file cannot be written.
pub(super) fn draw(path: &Path, case: &Case, comparison: &Comparison) -> Result<()> {
    let svg = picture(case, comparison).map_err(|why| Error::unavailable(format!("cannot draw: {why}")))?;
    let written = std::fs::write(path, svg);
    written.map_err(|source| Error::unavailable("cannot write").with("file", path.display()).with_source(source))
}

fn picture(case: &Case, comparison: &Comparison) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(&format!("{}: adaptive checkpoint interval", case.name), ("sans-serif", 20))?;
        let [top, middle, bottom] = &root.split_evenly((3, 1))[..] else { return Err("no room".into()) };
        let failures = &comparison.first_failures;
        panel(top, case, "records per s", &rate(case), &LOAD, failures)?;
        panel(middle, case, "dirty rows per s", &dirty(case, comparison), &DIRTY, failures)?;
        intervals(bottom, case, comparison)?;
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws an area under `curve`, with a line at each failure.
fn panel(
    area: &Area<'_>,
    case: &Case,
    name: &str,
    curve: &Curve,
    color: &RGBColor,
    failures: &[f64],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let most = curve.iter().map(|(_, value)| *value).fold(1.0, f64::max) * 1.05;
    let mut chart = margins(area).build_cartesian_2d(0.0..case.world.end() / unit(case).0, 0.0..most)?;
    mesh(&mut chart, unit(case).1, name, &|value| short(*value))?;
    let points = curve.iter().map(|(t, value)| (t / unit(case).0, *value));
    chart.draw_series(AreaSeries::new(points, 0.0, color.mix(0.25)).border_style(color))?;
    chart.draw_series(failures.iter().map(|at| mark(*at / unit(case).0, 0.0..most)))?;
    Ok(())
}

fn intervals(
    area: &Area<'_>,
    case: &Case,
    comparison: &Comparison,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let chosen = chosen(case, comparison);
    let values = || chosen.iter().map(|(_, value)| *value);
    let (best, _) = comparison.best_fixed();
    let (least, most) = (values().fold(best, f64::min), values().fold(best, f64::max));
    // The legend takes the lowest third.
    let (low, high) = (0.8 * least / (most / least).sqrt().max(2.0), 1.25 * most);
    let mut chart = margins(area).build_cartesian_2d(0.0..case.world.end() / unit(case).0, (low..high).log_scale())?;
    mesh(&mut chart, unit(case).1, "interval, s", &|value| format!("{value}"))?;
    chart
        .draw_series(comparison.first_failures.iter().map(|at| mark(*at / unit(case).0, low..high)))?
        .label("failure")
        .legend(legend(FAILURE));
    let across = [(0.0, best), (case.world.end() / unit(case).0, best)];
    let fixed = format!("best fixed interval in hindsight, {best:.1} s");
    chart.draw_series(LineSeries::new(across, BLACK.mix(0.5)))?.label(fixed).legend(legend(RGBColor(120, 120, 120)));
    let points = chosen.iter().map(|(t, value)| (t / unit(case).0, *value));
    chart.draw_series(LineSeries::new(points, CHOSEN.stroke_width(2)))?.label("chosen interval").legend(legend(CHOSEN));
    let labels = &mut chart.configure_series_labels();
    labels.position(SeriesLabelPosition::LowerLeft).background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3));
    labels.label_font(("sans-serif", 14)).draw()?;
    Ok(())
}

fn margins<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(6).margin_right(16).x_label_area_size(34).y_label_area_size(70);
    builder
}

/// Returns the axis's time unit, in seconds, and its name.
fn unit(case: &Case) -> (f64, &'static str) {
    if case.world.end() < 7200.0 { (60.0, "minutes") } else { (3600.0, "hours") }
}

/// Draws axes and grid lines.
fn mesh<X, Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    unit: &str,
    name: &str,
    format: &dyn Fn(&f64) -> String,
) -> std::result::Result<(), Box<dyn std::error::Error>>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mesh = &mut chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.1)).label_style(("sans-serif", 13));
    mesh.x_desc(unit).y_desc(name).axis_desc_style(("sans-serif", 14)).y_labels(6).y_label_formatter(&format);
    mesh.draw()?;
    Ok(())
}

/// Returns the line marking a failure.
fn mark(at: f64, range: Range<f64>) -> PathElement<(f64, f64)> {
    PathElement::new([(at, range.start), (at, range.end)], FAILURE.mix(0.55))
}

fn legend(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.1} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// Returns the times of the curves' points.
fn moments(case: &Case) -> impl Iterator<Item = f64> {
    let step = (case.world.end() / POINTS as f64).max(1.0);
    std::iter::successors(Some(0.0), move |t| Some(t + step)).take_while({
        let end = case.world.end();
        move |t| t + step <= end
    })
}

fn rate(case: &Case) -> Curve {
    let step = (case.world.end() / POINTS as f64).max(1.0);
    let mean = |t: f64| (case.world.records_at(t + step) - case.world.records_at(t)) / step;
    moments(case).map(|t| (t, mean(t))).collect()
}

/// Returns the interval in force at `t`.
fn chosen_at(comparison: &Comparison, t: f64) -> f64 {
    let at = comparison.first.changes.partition_point(|(since, _)| *since <= t);
    let decision = at.checked_sub(1).and_then(|at| comparison.first.changes.get(at));
    decision.map_or(f64::NAN, |(_, decision)| decision.interval.as_secs_f64())
}

fn chosen(case: &Case, comparison: &Comparison) -> Curve {
    moments(case).map(|t| (t, chosen_at(comparison, t))).filter(|(_, interval)| interval.is_finite()).collect()
}

/// Returns the rows dirtied per second of the interval in force.
fn dirty(case: &Case, comparison: &Comparison) -> Curve {
    let rows = |t: f64| {
        let interval = chosen_at(comparison, t).clamp(1.0, case.world.end());
        let updates = |t: f64| case.world.updates_at(case.world.records_at(t.max(0.0)));
        case.world.distinct(updates(t) - updates(t - interval)) / interval
    };
    moments(case).map(|t| (t, rows(t))).filter(|(_, rows)| rows.is_finite()).collect()
}
