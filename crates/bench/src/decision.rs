//! Interval decisions as JSON.

use alluvium::interval::{CheckpointKind, Decision};
use serde_json::{Value, json};

/// Returns decisions as JSON.
#[must_use]
pub fn decisions_json(decisions: &[(f64, Decision)]) -> Vec<Value> {
    decisions.iter().map(|(t, decision)| decision_json(*t, decision)).collect()
}

fn decision_json(t: f64, decision: &Decision) -> Value {
    let kind = match decision.kind {
        CheckpointKind::Full => json!({ "full": true }),
        CheckpointKind::Incremental { bases } => json!({ "full": false, "bases": bases }),
        _ => Value::Null,
    };
    json!({
        "t": t,
        "interval_s": decision.interval.as_secs_f64(),
        "kind": kind,
        "binds": decision.reason.binds.name(),
        "utilisation": decision.reason.utilisation,
        "dirty_rows_per_s": decision.reason.dirty_rows_per_s,
        "recovery_s": decision.reason.recovery_s.is_finite().then_some(decision.reason.recovery_s),
        "infeasible": decision.reason.infeasible.as_ref().map(ToString::to_string),
        "reason": decision.reason.to_string(),
    })
}
