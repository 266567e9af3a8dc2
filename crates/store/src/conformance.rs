//! What every store must do, case by case, seen only through the trait.
//!
//! A case starts on an empty store, asserts what is answered and returns an error when the store could not be asked.
//! A test of a store names each case through [`conformance_cases!`](crate::conformance_cases), so that a case cannot be
//! left out.

mod batches;
mod chunks;
mod claims;
mod creation;
mod endings;
mod files;
mod notices;
pub mod samples;
mod uploads;
mod workers;

use std::future::Future;
use std::pin::Pin;

use crate::{Result, Store};

/// Hands the list of all cases, by module, to the macro that is named.
#[macro_export]
macro_rules! conformance_cases {
    ($callback:ident) => {
        $callback! {
            files: visible_to_its_tenant_only, listed_both_ways_in_pages, hidden_by_deletion_and_expiry,
                dead_only_when_no_batch_needs_it, forgotten_only_when_it_may_die, blobs_that_are_known;
            uploads: visible_to_its_tenant_only, completed_once, cancelled_once, parts_only_while_pending,
                swept_after_its_end, parts_forgotten_only_after_its_end;
            creation: refused_by_each_limit, large_batch_is_held_to_the_disk_only, repeated_with_its_key,
                key_without_repeat_creates_again, key_of_refused_or_deleted_batch_is_free;
            batches: visible_to_its_tenant_only, listed_newest_first_in_pages, every_event_in_every_state,
                kept_in_every_member, planned_with_its_chunks, empty_plan_is_an_error, changed_by_a_patch,
                children_are_found, open_chunks_are_those_begun_and_not_done, queue_in_numbers,
                queue_of_one_tenant, demand_by_model;
            claims: in_the_order_of_the_queue, parked_chunks_first, paused_and_excepted_are_skipped,
                models_that_nobody_serves_are_skipped, only_before_a_batch, active_batches_are_limited, higher_priority_passes_the_limit,
                nothing_to_claim;
            chunks: begun_once, renewed_while_held, stale_lease_changes_nothing, last_one_finishes_the_batch,
                parked_and_counted, split_in_two, split_out_of_range_is_an_error, recovered_from_others,
                expired_leases_are_taken_back, taken_back_after_the_end_is_dropped, reopened_when_done,
                reopening_what_is_not_done_is_an_error;
            endings: cancel_drops_what_nobody_holds, cancel_while_validating_is_closable, repeated_cancel_is_quiet,
                expiry_ends_only_hard_ones, closable_when_nobody_holds, closed_with_its_files,
                late_completion_keeps_the_end, deleted_with_all_that_is_its_own;
            notices: none_while_nobody_is_told, put_once_for_each_that_wants_it, put_with_every_end_of_a_batch,
                put_with_a_pause_that_nobody_asked_for, settled_for_each_receiver, forgotten_with_their_receiver,
                the_oldest_go_when_there_are_too_many, named_by_what_happened;
            workers: seen_and_forgotten;
        }
    };
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
type Case = for<'a> fn(&'a dyn Store) -> Answer<'a>;

macro_rules! table {
    ($($module:ident: $($case:ident),+;)+) => {
        const CASES: &[(&str, &str, Case)] =
            &[$($((stringify!($module), stringify!($case), |store| Box::pin($module::$case(store))),)+)+];
    };
}
conformance_cases!(table);

/// Runs one case on an empty store. Panics when the store does not pass.
pub async fn run(module: &str, case: &str, store: &dyn Store) {
    let found = CASES.iter().find(|(of, name, _)| *of == module && *name == case);
    let Some((_, _, run)) = found else { panic!("there is no case `{module}::{case}`") };
    if let Err(error) = run(store).await {
        panic!("`{module}::{case}` could not be carried out: {error}");
    }
}
