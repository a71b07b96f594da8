//! Every generated load, with failures, costs and prior as expected and off.

use std::fmt::Write as _;

use alluvium::Result;
use serde_json::json;

use super::args::IntervalArgs;
use super::compare::{Case, Comparison, USUAL_S, compare, with_controller};
use super::report::{percent, signed_percent};
use super::trace::{Made, TraceSource};
use super::world::Failures;
use crate::Print;

/// The deviation from expected conditions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Variant {
    Expected,
    /// Weibull failures, shape 0.7.
    Weibull,
    /// The controller observes costs scaled by this factor.
    Costs(f64),
    /// The controller's prior mean time between failures is scaled by this factor.
    Prior(f64),
}

impl Variant {
    pub(super) const ALL: [Self; 6] =
        [Self::Expected, Self::Weibull, Self::Costs(2.0), Self::Costs(0.5), Self::Prior(4.0), Self::Prior(0.25)];

    fn name(self) -> String {
        match self {
            Self::Expected => "as expected".to_owned(),
            Self::Weibull => "Weibull 0.7".to_owned(),
            Self::Costs(factor) => format!("costs x {factor}"),
            Self::Prior(factor) => format!("prior x {factor}"),
        }
    }

    /// Returns whether only the controller deviates, which leaves all other policies' outcomes unchanged.
    fn is_controller_only(self) -> bool {
        matches!(self, Self::Costs(_) | Self::Prior(_))
    }

    pub(super) fn apply(self, case: &mut Case) {
        match self {
            Self::Expected => {}
            Self::Weibull => case.failures = Failures::Weibull(0.7),
            Self::Costs(factor) => case.cost_factor = factor,
            Self::Prior(factor) => case.settings.failures.job_mtbf *= factor,
        }
    }
}

/// Prints the table, or one JSON document.
///
/// # Errors
/// Those of the comparison; `Unavailable` if standard output is closed.
pub(super) fn run(args: &IntervalArgs, print: Print<'_>) -> Result<()> {
    let mut sources: Vec<TraceSource> = Made::ALL.into_iter().map(TraceSource::Made).collect();
    sources.extend(args.trace.clone());
    let (mut documents, mut expected) = (Vec::new(), Vec::new());
    if !args.json {
        print(HEADER)?;
    }
    for variant in Variant::ALL {
        for (at, source) in sources.iter().enumerate() {
            // `--capacity` applies to traces from files: generated loads have their own.
            let capacity = args.capacity.filter(|_| matches!(source, TraceSource::File(_)));
            let mut case = IntervalArgs { trace: Some(source.clone()), capacity, ..args.clone() }.case()?;
            variant.apply(&mut case);
            let comparison = match expected.get(at) {
                Some(others) if variant.is_controller_only() => with_controller(&case, others)?,
                _ => compare(&case)?,
            };
            if args.json {
                documents.push(document(variant, &case, &comparison));
            } else {
                print(&row(variant, &case, &comparison))?;
            }
            if variant == Variant::Expected {
                expected.push(comparison);
            }
        }
    }
    if args.json { print(&super::document(&json!({ "runs": args.seeds, "cases": documents }))) } else { Ok(()) }
}

const HEADER: &str = "\
| variant | load | controller lost s | best fixed s | it lost s | clairvoyant lost s | against best fixed | gap | closed | against 30 s | against 10 min |
|---|---|---|---|---|---|---|---|---|---|---|
";

/// Returns the controller's extra loss relative to a usual fixed interval; `None` if that interval lost nothing.
fn extra_loss(comparison: &Comparison, interval: f64) -> Option<f64> {
    let other = comparison.fixed_at(interval)?.mean();
    (other > 0.0).then(|| comparison.controller.mean() / other - 1.0)
}

fn row(variant: Variant, case: &Case, comparison: &Comparison) -> String {
    let (best_s, best) = comparison.best_fixed();
    let mut row = format!("| {} | {} ", variant.name(), case.name);
    let cells = [comparison.controller.mean(), best_s, best.mean(), comparison.clairvoyant.mean()];
    // Writing to a string cannot fail.
    cells.into_iter().for_each(|cell| {
        let _infallible = write!(row, "| {cell:.1} ");
    });
    let _infallible = writeln!(
        row,
        "| {} % ± {} | {} % | {} | {} % | {} % |",
        signed_percent(comparison.regret()),
        percent(comparison.regret_error()),
        percent(comparison.gap()),
        // A share of a gap within the noise is meaningless.
        comparison
            .gap_closed()
            .filter(|closed| closed.abs() < 5.0)
            .map_or_else(|| "-".to_owned(), |closed| format!("{:.0} %", 100.0 * closed)),
        signed_percent(extra_loss(comparison, USUAL_S[0])),
        signed_percent(extra_loss(comparison, USUAL_S[1])),
    );
    row
}

fn document(variant: Variant, case: &Case, comparison: &Comparison) -> serde_json::Value {
    let (best_s, best) = comparison.best_fixed();
    json!({
        "variant": variant.name(),
        "trace": case.name,
        "controller_lost_s": comparison.controller.mean(),
        "best_fixed_s": best_s,
        "best_fixed_lost_s": best.mean(),
        "clairvoyant_lost_s": comparison.clairvoyant.mean(),
        "against_best_fixed": comparison.regret(),
        "standard_error": comparison.regret_error(),
        "gap": comparison.gap(),
        "closed": comparison.gap_closed(),
        "interval_changes": comparison.controller.changes / f64::from(case.seeds),
    })
}
