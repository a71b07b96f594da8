//! Planted bugs found by a law, because random runs would take long or could not detect them.

use std::panic::catch_unwind;

use alluvium::internals::canary::{Canary, plant};

use super::{damage, owners, sharing, sweeping, wire};

/// Planted bugs, each with the law that it breaks.
const BREAKS: [(Canary, fn()); 17] = [
    (Canary::Overwrite, owners::a06_a_create_that_lands_minutes_later_changes_nothing),
    (Canary::SkipClaimFence, owners::b03_a_claim_that_comes_late_is_fenced),
    (Canary::TrustListing, owners::a14_the_end_of_the_chain_is_found_though_listings_lag),
    (Canary::GhostFences, owners::b04_a_restart_gets_past_its_own_ghost),
    (Canary::TrustDraft, owners::drafts_that_break_the_chains_rules_are_refused),
    (Canary::CollectOverUnreadable, sweeping::c05_while_a_live_manifest_is_unreadable_nothing_is_deleted),
    (Canary::PartialListing, sweeping::a15_a_listing_that_breaks_off_is_no_listing),
    (Canary::CollectSavepoints, sharing::b14_a_savepoint_and_checkpoints_share_objects_and_all_are_restorable),
    (Canary::SkipIdentity, damage::a25_a_whole_manifest_in_the_wrong_place_is_damage),
    (Canary::SilentFallback, damage::a24_damage_is_named_with_the_choices_and_never_passed_over),
    (Canary::StaleMessages, wire::b22_what_another_attempt_session_or_epoch_sent_changes_nothing),
    (Canary::AcknowledgeTwice, wire::b23_of_two_acknowledgements_the_first_counts),
    (Canary::ForeignSeats, wire::b24_an_answer_for_another_workers_seat_is_refused),
    (Canary::AnyGroups, wire::b24_groups_with_a_hole_or_an_overlap_and_seats_left_out_are_refused),
    (Canary::ForeignSlices, wire::b25_what_another_worker_uploaded_and_what_nobody_listed_is_refused),
    (Canary::DeclineCommitting, wire::b26_an_epoch_whose_manifest_is_being_created_is_not_given_up),
    (Canary::SweepUploads, wire::c13_a_late_sweep_takes_what_lost_workers_left_and_nothing_of_this_attempt),
];

#[test]
fn planted_bugs_break_their_laws() {
    for (canary, law) in BREAKS {
        plant(Some(canary));
        let outcome = catch_unwind(law);
        plant(None);
        assert!(outcome.is_err(), "{canary:?} was not found");
    }
}
