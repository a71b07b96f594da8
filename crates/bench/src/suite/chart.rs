//! The comparison as bars, readable on light and dark pages.

use std::fmt::Write as _;

use super::comparison::{Column, Figure, Row, rows};
use super::report::Report;

const WIDTH: f64 = 860.0;
/// Where bars begin; names end before.
const LEFT: f64 = 300.0;
/// Length of the longest bar, which leaves room for its figure.
const LENGTH: f64 = 400.0;
/// Height of a line.
const LINE: f64 = 22.0;

/// Colours, which follow the viewer's preference for light or dark pages.
const STYLE: &str = "<style>
.page { fill: #ffffff; }
text { font: 13px sans-serif; fill: #1f2328; }
.title { font-weight: bold; }
.note { fill: #59636e; }
.bar { fill: #4a82b8; }
.map { fill: #8c959f; }
.peer { fill: #c98230; }
.range { stroke: #1f2328; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; }
  text { fill: #f0f6fc; }
  .note { fill: #b1bac4; }
  .range { stroke: #f0f6fc; }
}
</style>
";

/// A bar with its name.
type Bar = (String, &'static str, Figure);

/// Returns the chart as SVG: bars are medians, lines on them the range of all turns.
pub(super) fn svg(report: &Report) -> String {
    let rows = rows(report);
    let mut body = String::new();
    let mut y = LINE;
    let note = |text: &mut String, y: &mut f64, line: &str| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "<text class=\"note\" x=\"10\" y=\"{y:.0}\">{}</text>", escaped(line));
        *y += LINE * 0.8;
    };
    for line in notes(report) {
        note(&mut body, &mut y, &line);
    }
    for (title, bars) in panels(&rows) {
        y += LINE * 0.6;
        let _infallible = writeln!(body, "<text class=\"title\" x=\"10\" y=\"{y:.0}\">{title}</text>");
        y += LINE * 0.4;
        let most = bars.iter().map(|(.., figure)| figure.greatest).fold(f64::MIN_POSITIVE, f64::max);
        for bar in &bars {
            body.push_str(&drawn(bar, most, y));
            y += LINE;
        }
    }
    let height = y + LINE * 0.5;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"img\">\n{STYLE}<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n{body}</svg>\n"
    )
}

fn notes(report: &Report) -> [String; 2] {
    let turns = report.turns.len();
    let about = format!("{} keys, uniform, one thread; {turns} turns, medians and ranges", report.figures.limits.keys);
    [report.machine.line(), about]
}

fn panels(rows: &[Row]) -> Vec<(&'static str, Vec<Bar>)> {
    let bars = |column, suffix: &str| {
        let bar = |row: &Row| Some((format!("{}{suffix}", row.name), class(&row.name), row.get(column)?));
        rows.iter().filter_map(bar).collect::<Vec<_>>()
    };
    vec![
        ("read-modify-writes per second", [bars(Column::Update, ""), bars(Column::Batch, ", batches")].concat()),
        ("pause of the writer at a checkpoint, us (p50)", bars(Column::Pause, "")),
        ("a checkpoint until it is durable, ms (p50)", bars(Column::Checkpoint, "")),
        ("restore: until loaded, ms", bars(Column::Loaded, "")),
        ("then every key read back, ms", bars(Column::ReadBack, "")),
    ]
}

fn class(name: &str) -> &'static str {
    match name {
        name if name.starts_with("map") => "map",
        name if name.starts_with("alluvium") => "bar",
        _ => "peer",
    }
}

/// Returns a line: a name, a bar whose length is a share of `most`, the range, the figure.
fn drawn((name, class, figure): &Bar, most: f64, y: f64) -> String {
    let x = |value: f64| LEFT + LENGTH * value / most;
    let (middle, base) = (y + LINE * 0.4, y + LINE * 0.6);
    let range = if figure.least < figure.greatest {
        let (from, to) = (x(figure.least), x(figure.greatest));
        format!("<path class=\"range\" d=\"M{from:.1} {middle:.1}H{to:.1}\"/>\n")
    } else {
        String::new()
    };
    format!(
        "<text x=\"{:.0}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>\n\
         <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\n{range}\
         <text x=\"{:.1}\" y=\"{base:.1}\">{}</text>\n",
        LEFT - 8.0,
        escaped(name),
        x(figure.median) - LEFT,
        LINE * 0.8,
        x(figure.greatest) + 8.0,
        short(figure.median),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.0} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::sample::report;

    #[test]
    fn a_bar_is_as_long_as_its_figure_and_marked_with_its_range() {
        let svg = svg(&report());
        let bar = |name: &str| {
            let (_, after) = svg.split_once(&format!(">{name}</text>")).unwrap_or_else(|| panic!("{name}: {svg}"));
            let number = |key: &str| {
                let text = after.split_once(key).unwrap().1.split('"').next().unwrap();
                text.parse::<f64>().unwrap()
            };
            number("width=\"")
        };
        // The longest, 400, is 20 M/s.
        assert_eq!([bar("map of u64 counters"), bar("map"), bar("cobble dirty 0.1")], [400.0, 240.0, 60.0]);
        assert!(svg.contains("d=\"M500.0 88.0H580.0\""), "from 10 to 14 M/s: {svg}");
        assert!(svg.contains("prefers-color-scheme: dark") && svg.ends_with("</svg>\n"));
    }
}
