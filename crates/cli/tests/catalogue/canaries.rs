//! Planted bugs, each detected by a row of the catalogue.

use std::panic::catch_unwind;

use alluvium::internals::canary::{Canary, plant};

use crate::{coordinator, disk, epochs, operators, restore, state, store};

/// A planted bug and the row that must fail.
const BREAKS: [(Canary, fn()); 13] = [
    (Canary::ReuseNames, operators::d13_names_are_drawn_and_never_told_by_a_clock),
    (Canary::ForgetAborted, coordinator::b07_what_lands_after_its_epoch_was_given_up_is_an_orphan),
    (Canary::SkipHash, store::a25_a_sound_block_of_another_checkpoint_is_found),
    (Canary::SkipCap, operators::d15_what_is_longer_than_it_may_be_is_not_read),
    (Canary::TrustClock, restore::f12_a_clock_that_went_back_over_a_restart_revives_nothing),
    (Canary::TrustCopy, store::a24_what_is_damaged_is_not_copied),
    (Canary::LoseOperators, epochs::f15_state_that_no_operator_claims_is_refused_dropped_or_carried),
    (Canary::ForgetPrepared, epochs::b16_output_prepared_in_an_epoch_that_is_given_up_is_listed_until_it_is_committed),
    (Canary::EarlyOutcome, epochs::b17_an_epoch_is_not_given_up_because_a_later_one_is),
    (Canary::AnyEpoch, epochs::b18_a_barrier_that_was_never_triggered_is_refused_and_changes_nothing),
    (Canary::PositionalIds, state::f16_tables_declared_in_another_order_keep_their_rows),
    (Canary::ForgetTimes, state::f12_watermarks_that_differ_revive_and_lose_nothing_at_a_rescale),
    (Canary::BoundStoredOnly, state::f17_a_chain_is_bounded_by_what_it_decodes_to),
];

#[test]
fn planted_bugs_break_their_rows() {
    for (canary, row) in BREAKS {
        plant(Some(canary));
        let outcome = catch_unwind(row);
        plant(None);
        assert!(outcome.is_err(), "{canary:?} was not found");
    }
}

/// Runs in a separate process, so that its calls can be recorded.
#[test]
fn files_that_are_not_synced_are_found() {
    disk::syncs_of_a_job(None).unwrap();
    assert!(disk::syncs_of_a_job(Some(Canary::SkipSync)).is_err(), "SkipSync was not found");
}
