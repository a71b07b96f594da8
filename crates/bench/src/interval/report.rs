//! A comparison as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::decision::decisions_json;

use super::compare::{Case, Comparison, Met, Total, USUAL_S};

/// Returns a share in percent, or a dash if unknown.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}", 100.0 * share))
}

/// As [`percent`], with its sign.
pub(super) fn signed_percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:+.1}", 100.0 * share))
}

/// Returns the table.
pub(super) fn text(case: &Case, comparison: &Comparison) -> String {
    let (best_s, best) = comparison.best_fixed();
    let hours = case.world.end() / 3600.0;
    let failures = case.world.hazard.iter().sum::<f64>();
    let mut text = format!(
        "{}: {hours:.1} h, {:.0} records/s of {:.0}, {failures:.1} failures, {} runs\n\n\
         policy            lost s  of which checkpoints  checkpoints  recovery p99\n",
        case.name,
        case.world.rate.iter().sum::<f64>() / case.world.end(),
        case.world.job.capacity,
        case.seeds,
    );
    let mut line = |name: &str, total: &Total| {
        let runs = total.lost.len().max(1) as f64;
        let recovery = total.recovery_quantile(0.99).map_or_else(|| "-".to_owned(), |took| format!("{took:.1} s"));
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            "{name:<14} {:>9.1} {:>21.1} {:>12.0} {recovery:>13}",
            total.mean(),
            total.checkpoint_s / runs,
            total.checkpoints / runs,
        );
    };
    line("controller", &comparison.controller);
    line("clairvoyant", &comparison.clairvoyant);
    line(&format!("fixed {best_s:.1} s *"), best);
    for interval in USUAL_S {
        comparison.fixed_at(interval).into_iter().for_each(|total| line(&format!("fixed {interval:.0} s"), total));
    }
    text.push_str("* the best fixed interval in hindsight\n");
    let _infallible = writeln!(
        text,
        "\nthe controller lost {} % (+- {} %) against the best fixed interval; the clairvoyant {} %",
        signed_percent(comparison.regret()),
        percent(comparison.regret_error()),
        signed_percent(comparison.gap().map(|gap| -gap)),
    );
    if let Some(goal) = case.goals.recovery {
        let Met { failures, met, best_fixed_s, best_fixed_met, both_met } = comparison.met(goal.as_secs_f64());
        let _infallible = writeln!(
            text,
            "recovery goal met in {met} of {failures} failures; fixed {best_fixed_s:.1} s, which meets it most often, did in \
             {best_fixed_met}, of which the controller in {both_met}",
        );
    }
    if let Some((at, decision)) = comparison.first.changes.last() {
        let _infallible = writeln!(text, "last decision of the first run, at {at:.0} s: {}", decision.reason);
    }
    text
}

/// Returns the document.
pub(super) fn json(case: &Case, comparison: &Comparison) -> Value {
    let (best_s, best) = comparison.best_fixed();
    let met = case.goals.recovery.map(|goal| comparison.met(goal.as_secs_f64()));
    let goal_met = met.and_then(|met| share(met.met, met.failures));
    let goal_met_of_best_fixed = met.and_then(|met| share(met.both_met, met.best_fixed_met));
    let fixed: Vec<Value> = comparison.fixed.iter().map(|(interval, total)| of_fixed(*interval, total)).collect();
    let decisions = decisions_json(&comparison.first.changes);
    json!({
        "trace": case.name,
        "seconds": case.world.end(),
        "runs": case.seeds,
        "controller": {
            "lost_s": comparison.controller.mean(),
            "lost_s_error_against_best_fixed": comparison.regret_error().map(|error| error * best.mean()),
            "checkpoints": comparison.controller.checkpoints / f64::from(case.seeds),
            "interval_changes": comparison.controller.changes / f64::from(case.seeds),
            "recovery_p99_s": comparison.controller.recovery_quantile(0.99),
            "goal_met": goal_met,
            "goal_met_of_best_fixed": goal_met_of_best_fixed,
        },
        "fixed": fixed,
        "best_fixed_s": best_s,
        "best_fixed_lost_s": best.mean(),
        "clairvoyant_lost_s": comparison.clairvoyant.mean(),
        "decisions": decisions,
    })
}

/// Returns a share of failures; `None` if there were none.
fn share(part: usize, all: usize) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

fn of_fixed(interval: f64, total: &Total) -> Value {
    json!({
        "interval_s": interval,
        "lost_s": total.mean(),
        "checkpoints": total.checkpoints / total.lost.len().max(1) as f64,
        "recovery_p99_s": total.recovery_quantile(0.99),
    })
}
