//! The share of time spent on useful work.

use super::sane;

/// Returns the useful share of time of a fully loaded job.
///
/// * `interval` > 0: start to start; `cost`: capacity lost to each checkpoint; `mtbf` > 0; `restart`: detection, restart and
///   restore; `operators` >= 1: length of the longest path; `hop`: a barrier's time from one operator to the next. A
///   checkpoint is usable only once its barrier has passed all operators.
///
/// # Source
/// Jayasekara, Harwood, Karunasekera, FGCS 110, 2020, arXiv 1911.11915; `docs/formulas.md`, A4.
/// Check: (600, 5, 3600, 60, 10, 1) is 0.894021559.
#[must_use]
#[cfg(any(test, feature = "internals"))]
pub fn utilisation(interval: f64, cost: f64, mtbf: f64, restart: f64, operators: u32, hop: f64) -> f64 {
    if !sane(&[interval, cost, mtbf, restart, hop]) || interval == 0.0 || mtbf == 0.0 || operators == 0 {
        return f64::NAN;
    }
    let rate = 1.0 / mtbf;
    let usable_after = restart + f64::from(operators - 1) * hop;
    rate * (interval - cost) * (-rate * usable_after).exp() / (rate * interval).exp_m1()
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn a4_utilisation() {
        // Without restart and hops, at the interval that maximises the utilisation.
        for (t, c, m, u) in [
            (1_800.333_395, 1.0, 1_620_000.0, "0.99888930"),
            (18.990_347, 0.05, 3600.0, "0.99473879"),
            (60.167_131, 0.5, 3600.0, "0.98342580"),
            (931.185_662, 5.0, 86400.0, "0.98928026"),
            (474.976_9, 30.0, 3600.0, "0.87639531"),
            (1_650.982_681, 120.0, 10800.0, "0.85824234"),
            (289.909_901, 60.0, 600.0, "0.61681683"),
            (184.140_566, 100.0, 100.0, "0.15859434"),
            (398.133_937, 300.0, 100.0, "0.01866063"),
        ] {
            prints(utilisation(t, c, m, 0.0, 1, 0.0), u);
        }
        prints(utilisation(60.0, 0.5, 3600.0, 30.0, 1, 0.0), "0.975264571");
        prints(utilisation(60.0, 0.5, 3600.0, 30.0, 6, 0.2), "0.974993701");
        prints(utilisation(60.0, 0.5, 3600.0, 30.0, 6, 5.0), "0.968515362");
        prints(utilisation(600.0, 5.0, 3600.0, 60.0, 10, 1.0), "0.894021559");
        prints(utilisation(120.0, 2.0, 60.0 / 0.075, 20.0, 5, 0.1), "0.888478844");
        prints(utilisation(1800.0, 2.0, 3600.0 / 0.3, 20.0, 5, 0.1), "0.924271838");
    }

    #[test]
    fn a4_the_best_interval_against_half_an_hour() {
        for (per_hour, best, gain) in
            [(0.3, 219.757_723, "1.0605"), (1.0, 120.670_387, "1.2561"), (4.5, 57.243_14, "3.5157")]
        {
            let at = |t: f64| utilisation(t, 2.0, 3600.0 / per_hour, 20.0, 5, 0.1);
            prints(at(best) / at(1800.0), gain);
        }
    }

    #[test]
    fn arguments_out_of_range_give_nan() {
        assert!(utilisation(0.0, 1.0, 1.0, 0.0, 1, 0.0).is_nan());
        assert!(utilisation(1.0, 1.0, 1.0, 0.0, 0, 0.0).is_nan());
        assert!(utilisation(1.0, f64::NAN, 1.0, 0.0, 1, 0.0).is_nan());
    }
}
