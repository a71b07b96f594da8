//! What a lazy restore of a checkpoint loads first, as text and JSON.

use serde_json::{Value, json};

use alluvium::offline::LoadStep;

use super::text::{Table, size};

/// Key groups shown.
const SHOWN: usize = 5;

/// The share of the recorded uses of which the text tells how soon it is there.
const MOST: f64 = 0.8;

/// How much of an operator's traffic and bytes the groups up to one have together.
#[derive(Debug, Clone, Copy)]
struct SoFar {
    step: LoadStep,
    uses: f64,
    bytes: u64,
}

/// Returns each group of the order with the sums up to it.
fn sums(order: &[LoadStep]) -> Vec<SoFar> {
    let add = |sums: &mut (f64, u64), step: &LoadStep| {
        *sums = (sums.0 + step.warmth.weight(), sums.1.saturating_add(step.bytes));
        Some(SoFar { step: *step, uses: sums.0, bytes: sums.1 })
    };
    order.iter().scan((0.0, 0), add).collect()
}

/// Returns the share that `part` is of `whole`; `None` of nothing.
fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

#[expect(clippy::cast_precision_loss, reason = "a displayed share")]
fn bytes_share(part: u64, whole: u64) -> Option<f64> {
    share(part as f64, whole as f64)
}

pub(super) fn load_order_json(order: &[LoadStep]) -> Value {
    let sums = sums(order);
    let (uses, bytes) = sums.last().map_or((0.0, 0), |all| (all.uses, all.bytes));
    let step = |so_far: &SoFar| {
        json!({
            "key_group": so_far.step.group.0,
            "uses": so_far.step.warmth.weight(),
            "bytes": so_far.step.bytes,
            "uses_share": share(so_far.uses, uses),
            "bytes_share": bytes_share(so_far.bytes, bytes),
        })
    };
    sums.iter().map(step).collect()
}

/// Returns the first groups, and how few of them have most of the traffic.
pub(super) fn load_order_text(order: &[LoadStep]) -> String {
    let sums = sums(order);
    let Some(all) = sums.last() else { return String::new() };
    if all.uses <= 0.0 {
        return "  no use of key groups is recorded: a lazy restore loads them by number\n".to_owned();
    }
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
    let mut table = Table::new(["key group", "uses of late", "bytes", "uses so far", "bytes so far"]);
    for so_far in sums.iter().take(SHOWN) {
        table.row([
            so_far.step.group.to_string(),
            format!("{:.0}", so_far.step.warmth.weight()),
            size(so_far.step.bytes),
            percent(share(so_far.uses, all.uses)),
            percent(bytes_share(so_far.bytes, all.bytes)),
        ]);
    }
    let most = sums.iter().position(|so_far| so_far.uses >= MOST * all.uses);
    let (count, so_far) = most.and_then(|at| Some((at + 1, sums.get(at)?))).unwrap_or((sums.len(), all));
    let bytes = bytes_share(so_far.bytes, all.bytes);
    let bytes = bytes.map_or_else(String::new, |share| format!(", {:.0} % of the bytes,", share * 100.0));
    format!(
        "  a lazy restore loads first\n{}  the first {count} of {} key groups{bytes} have {:.0} % of the recorded uses\n",
        table.print("    "),
        sums.len(),
        so_far.uses / all.uses * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use alluvium::KeyGroup;
    use alluvium::manifest::Warmth;

    use super::*;

    fn order(steps: &[(u16, u64, u64)]) -> Vec<LoadStep> {
        let step = |&(group, uses, bytes): &(u16, u64, u64)| LoadStep {
            group: KeyGroup(group),
            warmth: Warmth::of(uses),
            bytes,
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn the_first_groups_are_shown_with_how_much_they_have_so_far() {
        let order = order(&[(9, 512, 1024), (2, 256, 1024), (4, 128, 2048), (0, 128, 4096)]);
        let expected = "  a lazy restore loads first\n\
            \x20   key group  uses of late    bytes  uses so far  bytes so far\n\
            \x20           9           512  1.0 KiB       50.0 %        12.5 %\n\
            \x20           2           256  1.0 KiB       75.0 %        25.0 %\n\
            \x20           4           128  2.0 KiB       87.5 %        50.0 %\n\
            \x20           0           128  4.0 KiB      100.0 %       100.0 %\n\
            \x20 the first 3 of 4 key groups, 50 % of the bytes, have 88 % of the recorded uses\n";
        assert_eq!(load_order_text(&order), expected);
        let second = json!({ "key_group": 2, "uses": 256.0, "bytes": 1024, "uses_share": 0.75, "bytes_share": 0.25 });
        assert_eq!(load_order_json(&order)[1], second);
    }

    #[test]
    fn without_a_record_or_sizes_there_are_no_shares() {
        assert_eq!((load_order_text(&[]), load_order_json(&[])), (String::new(), json!([])));
        let unused = order(&[(0, 0, 10), (1, 0, 20)]);
        assert!(load_order_text(&unused).contains("by number") && load_order_json(&unused)[0]["uses_share"].is_null());
        let short = order(&[(0, 4, 0), (1, 1, 0)]);
        let text = load_order_text(&short);
        assert!(text.ends_with("  the first 1 of 2 key groups have 80 % of the recorded uses\n"), "{text}");
    }
}
