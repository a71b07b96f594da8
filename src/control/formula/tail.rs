//! Tails of checkpoints that are made of many writes.

/// Returns the quantile that each of `writes` parallel writes must meet for all of them to meet `quantile` (0 to 1).
///
/// # Source
/// `docs/formulas.md`, B3: `q^(1/P)`. Check: (0.99, 100) is 0.999899502.
#[must_use]
pub fn quantile_per_write(quantile: f64, writes: u32) -> f64 {
    if !(0.0..=1.0).contains(&quantile) || writes == 0 {
        return f64::NAN;
    }
    quantile.powf(1.0 / f64::from(writes))
}

#[cfg(test)]
mod tests {
    use super::super::prints;
    use super::*;

    #[test]
    fn b3_tail_of_parallel_writes() {
        prints(quantile_per_write(0.99, 100), "0.999899502");
        prints(quantile_per_write(0.99, 1000), "0.999989950");
        prints(quantile_per_write(0.999, 128), "0.999992184");
        assert!(quantile_per_write(1.1, 1).is_nan() && quantile_per_write(0.5, 0).is_nan());
    }
}
