//! The suite that every engine passes.
//!
//! A case is a function generic over [`Harness`]. [`conformance_suite!`] makes a test of each for one
//! engine, which its module instantiates:
//!
//! ```ignore
//! conformance_suite!(TempDirHarness::new().await);
//! ```
//!
//! Cases say what the trait's prose says. They wait for events, never for time: that nothing is
//! delivered is shown by who gets the message instead, or by a pull that does not wait; that a lease
//! ended is brought about with an extension by zero. No case is about speed.

pub(crate) mod closing;
pub(crate) mod commits;
pub(crate) mod compaction;
pub(crate) mod consuming;
pub(crate) mod credit;
pub(crate) mod dead_letters;
pub(crate) mod directed;
pub(crate) mod duplicates;
pub(crate) mod ephemeral;
pub(crate) mod exclusive;
pub(crate) mod expiring;
pub(crate) mod explaining;
pub(crate) mod filters;
mod fixture;
pub(crate) mod key_ordered;
pub(crate) mod keys;
pub(crate) mod moving;
pub(crate) mod patterns;
pub(crate) mod pausing;
pub(crate) mod persistence;
pub(crate) mod publishing;
pub(crate) mod reading;
pub(crate) mod redelivery;
pub(crate) mod retention;
pub(crate) mod scheduling;
pub(crate) mod seeking;
pub(crate) mod settling;
pub(crate) mod sharing;
pub(crate) mod subscriptions;
pub(crate) mod topics;
pub(crate) mod watching;

use std::sync::Arc;

use async_trait::async_trait;

use super::Engine;

/// One engine under test, and whatever it keeps its data in.
#[async_trait]
pub(crate) trait Harness: Send + Sync {
    /// The engine, open.
    fn engine(&self) -> Arc<dyn Engine>;

    /// Closes the engine and opens another on the same data. Asked only of persistent engines, and
    /// only when no case holds the engine any more.
    async fn reopen(&mut self);
}

/// Makes a test of every case. Takes an expression that makes a fresh [`Harness`], and may await.
macro_rules! conformance_suite {
    ($harness:expr) => {
        $crate::engine::conformance::conformance_tests! { $harness;
            topics {
                create_returns_the_topic, create_again_changes_nothing, validate_creates_nothing,
                unknown_topics_are_not_found, lists_are_sorted_paged_and_filtered,
                update_replaces_what_it_names, update_checks_the_revision, validate_updates_nothing,
                a_topic_says_what_it_holds, delete_forgets_the_topic, delete_checks_the_revision,
                a_topic_in_use_stays, a_recreated_topic_starts_over,
            }
            publishing {
                offsets_are_dense_from_one, topics_count_for_themselves, messages_are_kept_as_they_came,
                publish_times_never_run_backward, one_message_too_large_refuses_all,
                a_lower_limit_keeps_what_is_stored, pipelined_requests_keep_their_order,
                a_forgotten_receipt_loses_nothing, requests_stay_whole_among_concurrent_publishers,
                the_largest_request_is_one_piece, receipts_say_what_was_reached,
                buffered_messages_arrive, an_expected_last_offset_is_kept_to,
                of_many_that_expect_the_same_one_is_stored,
            }
            duplicates {
                are_stored_once, without_an_id_are_none, within_one_request_are_found,
                topics_are_told_apart, are_as_safe_as_was_asked, are_forgotten_after_the_window,
                are_forgotten_when_the_window_is_closed, are_forgotten_with_their_topic,
                expect_nothing_if_all_are, a_refused_message_is_not_remembered,
                of_concurrent_publishers_one_is_stored, are_remembered_across_a_restart,
            }
            keys {
                an_expected_offset_is_kept_to, without_an_index_nothing_is_expected,
                an_accepted_request_is_accepted_again, of_many_that_expect_the_same_one_is_stored,
                a_recreated_topic_starts_over, are_known_after_a_restart,
            }
            commits {
                everything_happens, acks_or_publishes_alone_are_fine, an_operation_sees_those_before_it,
                a_failed_expectation_undoes_all, an_unknown_name_undoes_all,
                an_id_without_effect_undoes_all, duplicates_are_no_error,
                of_commits_of_the_same_message_one_succeeds, acks_from_before_a_seek_undo_all,
                a_seek_meanwhile_comes_before_or_after, durability_is_the_highest_asked_for,
                what_was_committed_stays,
            }
            reading {
                starts_where_asked, a_time_means_the_first_message_since, stops_at_the_limits,
                one_message_is_always_allowed, changes_nothing,
            }
            subscriptions {
                create_returns_the_subscription, create_again_changes_nothing, validate_creates_nothing,
                unknown_subscriptions_are_not_found, lists_are_sorted_paged_and_filtered,
                update_replaces_what_it_names, update_checks_the_revision, validate_updates_nothing,
                starts_where_asked, a_start_is_taken_at_creation, a_start_past_the_end_waits_there,
                a_start_by_time_is_the_first_message_since, stats_tell_the_progress,
                delete_checks_the_revision, delete_ends_its_consumers, delete_ends_a_waiting_pull,
                a_recreated_subscription_starts_over,
            }
            consuming {
                messages_come_in_order, waiting_consumers_are_woken, next_may_be_dropped_and_called_again,
                batches_are_bounded_in_messages, batches_are_bounded_in_bytes,
                subscriptions_progress_on_their_own, consumers_are_told_apart,
                consumers_of_a_subscription_are_limited, consumers_are_limited,
                a_pull_does_not_wait_unless_asked, a_pull_waits_for_the_first_message,
                waiting_pulls_are_limited, a_pull_stops_at_its_limits,
            }
            credit {
                messages_are_respected, bytes_are_respected, one_message_is_always_allowed,
                none_stops_and_more_resumes, less_than_held_stops, what_is_given_back_frees_it,
                in_flight_messages_are_limited, the_limit_in_flight_can_be_raised,
            }
            redelivery {
                at_the_deadline, at_the_deadline_to_who_waits, after_a_nack, after_a_nacks_delay,
                a_delayed_message_holds_up_no_other, after_the_consumer_left,
                a_pulled_message_outlives_the_call, attempts_are_counted, goes_before_new_messages,
                a_new_deadline_is_for_new_deliveries,
            }
            compaction {
                the_last_message_of_each_key_stays, subscriptions_pass_over_what_was_superseded,
                every_message_must_have_a_key, it_takes_no_dead_letters_and_no_other_limits,
                what_is_left_is_found_again,
            }
            retention {
                a_purge_drops_what_came_before, a_purge_of_everything_keeps_the_offsets,
                a_purge_by_time_keeps_what_came_since, a_purge_past_the_end_is_refused,
                subscriptions_pass_over_what_is_gone, waiting_consumers_go_on_after_a_purge,
                a_subscription_starts_at_what_is_left, the_newest_messages_are_kept, a_size_is_kept_to,
                old_messages_go, what_every_subscription_has_settled_goes,
                contradictory_settings_are_refused, what_is_gone_stays_gone,
            }
            settling {
                acked_messages_never_return, the_floor_waits_for_the_oldest, an_ack_counts_once,
                a_late_ack_counts, an_ack_counts_after_the_consumer_left, an_ack_counts_after_a_nack,
                an_id_expires_when_its_message_is_handed_out_again, garbage_is_unknown,
                a_changed_id_is_unknown, a_foreign_id_has_no_effect,
                a_hundred_thousand_bad_ids_have_no_effect, one_bad_id_harms_no_other,
                cumulative_settles_what_came_before, cumulative_closes_holes,
                an_extension_makes_it_longer, an_extension_makes_it_shorter,
                an_extension_goes_by_the_subscription, a_late_extension_counts,
            }
            sharing {
                every_message_goes_to_one_consumer, who_waits_gets_a_fair_share,
                a_consumer_without_credit_holds_up_no_other, everything_arrives_once_under_load,
            }
            exclusive {
                the_oldest_consumer_gets_everything, a_standby_takes_over_in_order,
                a_message_without_room_does_not_go_to_a_standby, redelivery_holds_up_what_follows,
                a_delay_holds_up_what_follows, a_held_subscription_cannot_be_pulled,
                what_was_pulled_holds_up_streams,
            }
            key_ordered {
                a_key_stays_with_its_consumer, a_consumer_may_hold_several_of_a_key,
                messages_without_a_key_have_no_order, what_follows_a_failed_message_comes_again_after_it,
                what_was_taken_back_counts_when_it_is_first, a_failing_key_holds_up_no_other,
                a_key_waits_for_its_backoff, giving_up_frees_the_key, pulls_are_apart,
                what_a_consumer_left_comes_in_order, a_pause_keeps_keys_with_their_holder,
                a_cumulative_ack_and_a_seek_free_keys, the_order_is_exact_whatever_fails,
                the_order_outlasts_a_restart,
            }
            scheduling {
                a_message_waits_for_its_time_and_holds_up_no_other, a_message_comes_at_its_time,
                what_waits_for_its_time_is_not_in_flight, a_seek_forgets_the_schedule,
                an_exclusive_order_leaves_out_what_is_not_due,
                a_message_takes_its_place_among_its_key_in_time, an_expired_message_counts_as_settled,
                a_message_expires_while_it_waits_to_come_again, what_expires_in_flight_may_be_acknowledged,
                readers_see_what_is_scheduled_and_ephemeral_ones_not_what_expired, both_outlast_a_restart,
            }
            seeking {
                back_delivers_again, forward_skips, by_time_and_to_the_ends, past_the_end_is_refused,
                what_was_delivered_before_has_no_effect, what_was_held_is_free_again,
                a_waiting_consumer_gets_what_is_there_now,
            }
            pausing {
                nothing_is_delivered_until_resumed, ends_consumers_and_waiting_pulls, acks_still_count,
                a_paused_subscription_can_be_created,
            }
            dead_letters {
                a_message_is_given_up_after_its_last_attempt, a_message_is_given_up_at_once_on_request,
                a_letter_tells_the_whole_story, whoever_lets_go_of_the_last_attempt,
                without_a_topic_messages_are_dropped, what_is_given_up_holds_up_no_other,
                a_given_up_delivery_cannot_be_settled, the_topic_must_exist_and_be_another,
                a_topic_that_takes_letters_stays, failures_wait_as_the_policy_says,
                the_policy_can_be_changed, a_pause_gives_nothing_up,
            }
            moving {
                browse_shows_what_is_not_settled, a_moved_message_is_here_or_there,
                of_many_moves_one_succeeds, a_refused_move_changes_nothing, discarded_messages_are_settled,
                the_servers_own_subscriptions_are_hidden, the_servers_own_subscriptions_go_with_the_topic,
            }
            directed {
                others_skip_what_is_for_one, what_is_skipped_holds_up_nothing, a_seek_back_skips_again,
                ephemeral_consumers_see_everything,
            }
            explaining {
                a_message_is_followed_through_its_life, what_happened_is_remembered,
                a_dead_message_tells_where_its_letter_is, a_skipped_message_says_so,
                unknown_messages_are_not_found, consumers_are_listed,
            }
            watching {
                a_given_up_message_is_announced, changes_to_topics_are_told_in_order,
                watching_ends_with_the_engine,
            }
            ephemeral {
                starts_where_asked, waits_at_an_offset_past_the_end, leases_nothing,
                readers_do_not_share, responses_are_bounded_by_credit, none_stops_and_more_resumes,
                next_may_be_dropped_and_called_again, ends_with_its_topic,
            }
            filters {
                only_what_is_wanted_is_delivered, what_nobody_wants_is_settled,
                a_filter_that_fails_does_not_want, an_update_is_for_what_is_still_to_come,
                an_update_is_for_what_comes_back, a_filter_sees_the_attempt,
                only_a_seek_brings_back_what_was_not_wanted, what_is_not_wanted_needs_no_room,
                the_order_stays, a_long_way_to_what_is_wanted, one_that_cannot_be_read_delivers_nothing,
                an_ephemeral_reader_leaves_out_the_rest, an_ephemeral_reader_goes_a_long_way,
                stays_across_a_restart,
            }
            expiring {
                an_unused_one_is_deleted, a_used_one_stays_until_it_is_left, the_time_can_be_changed,
                a_namesake_has_a_time_of_its_own,
            }
            patterns {
                every_topic_is_read, a_later_topic_is_read_from_its_first_message, starts_where_asked_in_each,
                a_busy_topic_starves_no_other,
                a_large_message_gets_its_turn, limits_hold_for_all_together, ids_count_in_their_topic,
                cumulative_acks_stay_in_their_topic, what_fails_comes_back, more_time_is_given_in_each,
                an_exclusive_consumer_has_all_topics, keys_are_ordered_in_each_topic,
                dead_letters_tell_their_topic, a_deleted_topic_leaves, a_seek_moves_every_topic,
                an_offset_names_no_message, a_pause_and_a_filter_are_for_all, a_commit_acks_in_several_topics,
                it_belongs_to_every_topic, what_it_has_not_settled_is_kept, readers_without_leases_follow_it,
                progress_stays_in_each_topic, it_covers_only_so_many_topics,
            }
            closing {
                refuses_everything, ends_consumers, ends_a_waiting_pull,
            }
            persistence {
                topics_and_messages_stay, subscriptions_and_progress_stay, deleted_things_stay_deleted,
                unsettled_messages_return_and_settled_ones_do_not,
                an_ack_from_before_counts, an_id_from_before_expires_when_handed_out_again,
                only_the_last_id_from_before_counts, attempts_are_counted_on, a_seek_and_a_pause_stay, attempts_used_up_before_stay_used_up,
                moved_and_discarded_messages_stay_so,
            }
        }
    };
}

/// One module for each group of cases, one test for each case.
macro_rules! conformance_tests {
    ($harness:expr; $($group:ident { $($case:ident),+ $(,)? })+) => {
        $(mod $group {
            #[allow(unused_imports, reason = "the harness may be named in full")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::engine::conformance::$group::$case($harness).await;
                }
            )+
        })+
    };
}

pub(crate) use {conformance_suite, conformance_tests};
