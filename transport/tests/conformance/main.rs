//! One set of bodies, run on every backend: what any of them must do, and what none may do.
//!
//! TCP always runs. Verbs runs with the cargo feature `verbs` and `PDLAB_RDMA_DEVICE` set to the
//! name of an RDMA device, and `PDLAB_RDMA_PEER_DEVICE` to that of another for the peer, if there
//! is one, and `PDLAB_RDMA_COMPLETION` to `poll` if that is to be tested; `scripts/rdma-tests` does so in a virtual machine, and runs UCX over the same devices.
//! UCX runs with the cargo feature `ucx` and `PDLAB_TEST_UCX` set to a version
//! that has been fetched, `system`, or a path; otherwise its tests say why they are skipped (run
//! with `--nocapture` to see it). `PDLAB_UCX_COMPLETION` may be `poll`.
//!
//! - `reads`: bytes arrive where they should, and notifications after them.
//! - `bad_input`: damaged and forged metadata, ranges, sizes.
//! - `failures`: peers that are killed or stopped, cancelled reads, reconnects.
//! - `lifecycle`: everything returns to zero. `faults`: but for what is kept on purpose, until close.
//! - `hostile`: what only TCP can check, because its server is ours. `ucx_only`, `verbs_only`: what is their own.
//! - `wire`: how a peer is stopped whose device would answer for it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod failures;
mod faults;
mod hostile;
mod lifecycle;
mod peer_process;
mod reads;
mod support;
mod ucx_only;
mod verbs_only;
mod wire;

/// A test per case and backend: `tcp::reads::odd_sizes_and_orders`. What is marked `stopping` stops a
/// peer in the middle of a read.
macro_rules! conformance {
    ($($backend:ident: $variant:ident { $($module:ident: $($case:ident $(($how:ident))?),+;)+ })+) => {
        $(mod $backend {
            $(mod $module {
                $(#[test]
                fn $case() {
                    let kind = pdlab_transport::BackendKind::$variant;
                    conformance!(@run $($how)?)(kind, crate::$module::$case);
                })+
            })+
        })+
    };
    (@run) => { crate::support::run };
    (@run stopping) => { crate::support::run_stopping };
}

macro_rules! on_every_backend {
    ($($cases:tt)+) => {
        conformance! { tcp: Tcp { $($cases)+ } ucx: Ucx { $($cases)+ } verbs: Verbs { $($cases)+ } }
    };
}

on_every_backend! {
    reads:
        odd_sizes_and_orders,
        more_blocks_than_one_call_takes,
        blocks_of_several_regions,
        empty_reads_notify,
        notification_follows_the_data,
        notifications_keep_their_order,
        many_reads_at_once,
        a_read_does_not_depend_on_others_that_wait,
        two_servers_and_two_clients;
    bad_input:
        damaged_metadata,
        metadata_of_another_backend,
        ranges_outside,
        overlapping_destinations,
        sizes_over_the_limits,
        foreign_regions;
    failures:
        killed_peer (stopping),
        killed_while_data_flows,
        stopped_peer (stopping),
        cancelled_read_of_a_stopped_peer (stopping),
        cancelled_read_of_a_live_peer,
        reconnect_to_a_new_process,
        connect_to_a_dead_process,
        connect_to_a_stopped_process (stopping),
        more_reads_than_slots (stopping),
        closed_peer (stopping);
    lifecycle:
        drains_to_zero,
        deregistered_regions,
        a_region_in_use_is_not_deregistered (stopping),
        close_ends_reads_in_flight (stopping),
        closed_agents_say_so,
        an_idle_agent_takes_no_processor_time,
        full_inbox_drops_and_counts,
        no_descriptor_and_no_thread_stays_behind;
    faults:
        kept_transfers,
        kept_keys,
        kept_endpoints,
        kept_notifications;
}

mod tcp_only {
    use pdlab_transport::BackendKind::Tcp;

    use crate::{hostile, support::run};

    #[test]
    fn forged_metadata() {
        run(Tcp, hostile::forged_metadata);
    }

    #[test]
    fn a_successor_at_the_same_address() {
        run(Tcp, hostile::a_successor_at_the_same_address);
    }

    #[test]
    fn reads_of_a_region_that_is_gone() {
        run(Tcp, hostile::reads_of_a_region_that_is_gone);
    }

    #[test]
    fn forged_lengths() {
        run(Tcp, hostile::forged_lengths);
    }

    #[test]
    fn strangers_at_the_door() {
        run(Tcp, hostile::strangers_at_the_door);
    }

    #[test]
    fn too_many_connections() {
        run(Tcp, hostile::too_many_connections);
    }

    #[test]
    fn silent_connections() {
        run(Tcp, hostile::silent_connections);
    }

    #[test]
    fn addresses_that_cannot_be() {
        run(Tcp, hostile::addresses_that_cannot_be);
    }

    #[test]
    fn dead_clients_are_forgotten() {
        run(Tcp, hostile::dead_clients_are_forgotten);
    }
}

mod ucx_alone {
    use pdlab_transport::BackendKind::Ucx;

    use crate::support::{run, run_stopping};
    use crate::ucx_only;

    #[test]
    fn addresses_and_keys_of_another_make() {
        run(Ucx, ucx_only::addresses_and_keys_of_another_make);
    }

    #[test]
    fn a_successor_at_the_same_address() {
        run(Ucx, ucx_only::a_successor_at_the_same_address);
    }

    #[test]
    fn close_waits_for_notifications_to_arrive() {
        run(Ucx, ucx_only::close_waits_for_notifications_to_arrive);
    }

    #[test]
    fn close_waits_for_nothing_but_gets() {
        run_stopping(Ucx, ucx_only::close_waits_for_nothing_but_gets);
    }

    #[test]
    fn reconnects_leave_no_descriptor_with_the_server() {
        run(Ucx, ucx_only::reconnects_leave_no_descriptor_with_the_server);
    }

    #[test]
    fn snapshots_show_keys_and_the_cache() {
        run(Ucx, ucx_only::snapshots_show_keys_and_the_cache);
    }

    #[test]
    fn two_that_read_from_each_other() {
        run(Ucx, ucx_only::two_that_read_from_each_other);
    }
}

mod verbs_alone {
    use pdlab_transport::BackendKind::Verbs;

    use crate::{support::run, ucx_only, verbs_only};

    #[test]
    fn a_forged_key_fails_at_the_peer() {
        run(Verbs, verbs_only::a_forged_key_fails_at_the_peer);
    }

    #[test]
    fn a_forged_length_fails_at_the_peer() {
        run(Verbs, verbs_only::a_forged_length_fails_at_the_peer);
    }

    #[test]
    fn forged_metadata() {
        run(Verbs, verbs_only::forged_metadata);
    }

    #[test]
    fn strangers_at_the_door() {
        run(Verbs, verbs_only::strangers_at_the_door);
    }

    #[test]
    fn a_successor_at_the_same_address() {
        run(Verbs, verbs_only::a_successor_at_the_same_address);
    }

    #[test]
    fn memory_in_several_regions() {
        run(Verbs, verbs_only::memory_in_several_regions);
    }

    #[test]
    fn settings_of_every_kind() {
        run(Verbs, verbs_only::settings_of_every_kind);
    }

    #[test]
    fn settings_that_cannot_be() {
        run(Verbs, verbs_only::settings_that_cannot_be);
    }

    #[test]
    fn a_port_that_goes_down() {
        run(Verbs, verbs_only::a_port_that_goes_down);
    }

    #[test]
    fn the_kernel_counts_nothing_left() {
        run(Verbs, verbs_only::the_kernel_counts_nothing_left);
    }

    #[test]
    fn a_memory_lock_limit_is_named() {
        run(Verbs, verbs_only::a_memory_lock_limit_is_named);
    }

    #[test]
    fn close_right_after_a_read_loses_nothing() {
        run(Verbs, verbs_only::close_right_after_a_read_loses_nothing);
    }

    #[test]
    fn reconnects_leave_no_descriptor_with_the_server() {
        run(Verbs, ucx_only::reconnects_leave_no_descriptor_with_the_server);
    }

    #[test]
    fn two_that_read_from_each_other() {
        run(Verbs, ucx_only::two_that_read_from_each_other);
    }
}

#[test]
#[ignore = "entry point of the processes that other tests start, kill and stop"]
fn peer_process_entry() {
    peer_process::enter();
}
