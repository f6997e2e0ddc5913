//! The life of a request, call by call, on both sides of a disaggregated pair.

mod common;

use common::{Driver, config, from_remote, prompt, request};
use pdlab_engine::*;

const BLOCK: usize = 4;

fn driver(num_blocks: usize) -> Driver {
    Driver::new(config(BLOCK, num_blocks))
}

fn driver_with(num_blocks: usize, change: impl FnOnce(&mut EngineConfig)) -> Driver {
    let mut config = config(BLOCK, num_blocks);
    change(&mut config);
    Driver::new(config)
}

fn ids(step: &Step) -> Vec<u64> {
    step.computed.iter().map(|computed| computed.id.0).collect()
}

#[test]
fn a_local_request_runs_to_its_length_and_leaves_a_cached_prefix() {
    let mut driver = driver(20);
    driver.add(request(1, &prompt(0, 9), 5, KvMode::Local));
    assert_eq!(driver.engine.state(RequestId(1)), Some(RequestState::Waiting));
    driver.step();
    assert_eq!(driver.engine.state(RequestId(1)), Some(RequestState::Running));
    assert_eq!(driver.output(1).len(), 1);
    driver.run();
    let finished = &driver.finished[&RequestId(1)];
    assert_eq!((finished.reason, finished.num_output_tokens), (FinishReason::Length, 5));
    assert_eq!(finished.kept_blocks, None);
    let stats = driver.engine.stats();
    // 9 + 4 computed tokens make three full blocks; the last output token was never computed.
    assert_eq!((stats.blocks_cached, stats.blocks_free), (3, 19));
    assert!(driver.engine.is_drained());
    assert_eq!(stats.totals.steps, 5);
    assert_eq!((stats.totals.prompt_tokens, stats.totals.generation_tokens), (9, 5));
}

#[test]
fn a_long_prompt_is_computed_in_chunks_and_decodes_go_first() {
    let mut driver = driver_with(20, |config| config.max_num_batched_tokens = 4);
    driver.add(request(1, &prompt(0, 3), 9, KvMode::Local));
    driver.step();
    driver.add(request(2, &prompt(100, 8), 2, KvMode::Local));
    let counts = |step: &Step| {
        let computed = step.computed.iter();
        computed.map(|c| (c.id.0, c.start_token, c.num_tokens)).collect::<Vec<_>>()
    };
    for expected in [
        [(1, 3, 1), (2, 0, 3)],
        [(1, 4, 1), (2, 3, 3)],
        [(1, 5, 1), (2, 6, 2)],
        [(1, 6, 1), (2, 8, 1)],
    ] {
        let step = driver.engine.schedule();
        assert_eq!(counts(&step), expected);
        assert!(step.load.tokens <= 4);
        driver.engine.finish_step(step);
    }
}

#[test]
fn a_prefix_hit_skips_computation_but_never_the_last_token() {
    let mut driver = driver(20);
    let tokens = prompt(0, 8);
    for id in [1, 2] {
        driver.add(request(id, &tokens, 1, KvMode::Local));
        driver.run();
    }
    // Both blocks are cached, but the second must be computed for the sake of its last token.
    assert_eq!(driver.finished[&RequestId(2)].cached_tokens, 4);
    let totals = driver.engine.stats().totals;
    assert_eq!((totals.prefix_queries, totals.prefix_hits), (16, 4));
    assert_eq!((totals.prompt_tokens_cached, totals.prompt_tokens_computed), (4, 12));
    assert_eq!(driver.output(1), driver.output(2));
}

#[test]
fn a_prefill_leg_pins_the_prompt_and_nothing_else_until_released() {
    let mut driver = driver(20);
    driver.add(request(1, &prompt(0, 9), 1, KvMode::ProduceForRemote));
    driver.run();
    let finished = driver.finished[&RequestId(1)].clone();
    assert_eq!(finished.kept_blocks.as_ref().map(Vec::len), Some(3));
    assert_eq!((finished.reason, finished.num_prompt_tokens), (FinishReason::Length, 9));
    let stats = driver.engine.stats();
    assert_eq!((stats.running, stats.blocks_pinned, stats.pinned_requests), (0, 3, 1));
    assert!((stats.kv_usage - 3.0 / 19.0).abs() < 1e-9, "pinned blocks are used");
    assert!(!driver.engine.has_work());

    let again = request(1, &prompt(0, 9), 1, KvMode::Local);
    assert_eq!(driver.engine.add(again), Err(AdmitError::DuplicateId(RequestId(1))));
    assert_eq!(driver.engine.abort(RequestId(1)), AbortOutcome::Ignored);
    assert_eq!(driver.engine.stats().blocks_pinned, 3);

    driver.release(RequestId(1));
    assert!(driver.engine.is_drained());
    assert!(!driver.engine.release(RequestId(1)));
}

#[test]
fn a_prefill_leg_with_more_output_keeps_only_the_blocks_of_its_prompt() {
    let mut driver = driver(20);
    driver.add(request(1, &prompt(0, 5), 10, KvMode::ProduceForRemote));
    driver.run();
    assert_eq!(driver.pinned[&RequestId(1)].len(), 2);
    assert_eq!(driver.engine.stats().blocks_free, 17);
}

#[test]
fn two_prefill_legs_share_the_blocks_of_a_common_prefix() {
    let mut driver = driver(20);
    for id in [1, 2] {
        driver.add(request(id, &prompt(0, 9), 1, KvMode::ProduceForRemote));
        driver.run();
    }
    let (first, second) = (&driver.pinned[&RequestId(1)], &driver.pinned[&RequestId(2)]);
    assert_eq!(first[..2], second[..2]);
    assert_eq!(driver.engine.stats().blocks_pinned, 4);
    driver.release(RequestId(1));
    assert_eq!(driver.engine.stats().blocks_pinned, 3);
    driver.release(RequestId(2));
    assert!(driver.engine.is_drained());
}

#[test]
fn a_decode_leg_loads_recomputes_one_token_and_decodes() {
    let mut driver = driver(20);
    driver.add(from_remote(1, &prompt(0, 9), 3));
    let loads = driver.schedule();
    let [load] = &loads[..] else { panic!("one load, not {loads:?}") };
    assert_eq!((load.first_block_index, load.num_tokens, load.local_blocks.len()), (0, 9, 3));
    driver.finish();
    assert_eq!(driver.engine.state(RequestId(1)), Some(RequestState::WaitingForRemoteKvs));
    assert_eq!(driver.engine.stats().waiting_remote, 1);
    assert!(!driver.engine.has_work(), "there is nothing to do until the load ends");
    assert_eq!(driver.engine.expected(RequestId(1), 2).unwrap().hashes.len(), 1);
    assert_eq!(driver.engine.expected(RequestId(1), 3), None);

    driver.load(RequestId(1));
    assert_eq!(driver.engine.state(RequestId(1)), Some(RequestState::Waiting));
    let step = driver.engine.schedule();
    assert_eq!((step.computed[0].start_token, step.computed[0].num_tokens), (8, 1));
    let writes: Vec<_> = step.writes().map(|write| (write.block, write.first_slot)).collect();
    assert_eq!(writes, [(load.local_blocks[2], 0)]);
    assert_eq!(driver.engine.finish_step(step).len(), 1);
    let totals = driver.engine.stats().totals;
    assert_eq!((totals.external_queries, totals.external_hits), (9, 9));
    assert_eq!((totals.prompt_tokens_remote, totals.prompt_tokens_computed), (9, 0));
}

#[test]
fn both_legs_and_a_local_run_agree_on_every_token() {
    let tokens = prompt(7, 13);
    let (mut local, mut prefill, mut decode) = (driver(20), driver(20), driver(20));
    local.add(request(1, &tokens, 20, KvMode::Local));
    local.run();
    prefill.add(request(1, &tokens, 1, KvMode::ProduceForRemote));
    prefill.run();
    decode.add(from_remote(1, &tokens, 20));
    decode.run();
    decode.load(RequestId(1));
    decode.run();
    assert_eq!(local.output(1), decode.output(1));
    assert_eq!(local.output(1)[..1], *prefill.output(1));
}

#[test]
fn only_blocks_that_the_local_cache_lacks_are_loaded() {
    let mut driver = driver(20);
    let tokens = prompt(0, 14);
    driver.add(request(1, &tokens[..9], 1, KvMode::Local));
    driver.run();
    driver.add(from_remote(2, &tokens, 1));
    let loads = driver.schedule();
    assert_eq!((loads[0].first_block_index, loads[0].num_tokens), (2, 6));
    assert_eq!(loads[0].local_blocks.len(), 2);
    driver.finish();
    driver.load(RequestId(2));
    driver.run();
    let finished = &driver.finished[&RequestId(2)];
    assert_eq!((finished.cached_tokens, finished.remote_tokens), (8, 6));
}

#[test]
fn when_the_cache_has_all_that_the_remote_has_it_is_only_told() {
    let mut driver = driver(20);
    let tokens = prompt(0, 9);
    driver.add(request(1, &tokens, 1, KvMode::Local));
    driver.run();
    driver.add(request(2, &tokens, 2, KvMode::FromRemote { remote_tokens: 8 }));
    let loads = driver.schedule();
    assert_eq!((loads[0].local_blocks.len(), loads[0].num_tokens), (0, 0));
    driver.finish();
    assert_eq!(driver.output(2).len(), 1, "it is computed in the same step");
    driver.engine.remote_loaded(RequestId(2));
    driver.run();
    assert_eq!(driver.reason(2), Some(FinishReason::Length));
}

#[test]
fn a_remote_with_a_part_of_the_prompt_leaves_the_rest_to_compute() {
    let mut driver = driver(20);
    driver.add(request(1, &prompt(0, 13), 2, KvMode::FromRemote { remote_tokens: 6 }));
    let loads = driver.schedule();
    assert_eq!((loads[0].local_blocks.len(), loads[0].num_tokens), (2, 6));
    driver.finish();
    driver.load(RequestId(1));
    let step = driver.engine.schedule();
    assert_eq!((step.computed[0].start_token, step.computed[0].num_tokens), (6, 7));
    driver.engine.finish_step(step);
}

#[test]
fn loaded_blocks_are_found_by_others_only_once_they_are_loaded() {
    let mut driver = driver(20);
    let tokens = prompt(0, 9);
    driver.add(from_remote(1, &tokens, 1));
    driver.step();
    driver.add(request(2, &tokens, 1, KvMode::Local));
    driver.run();
    assert_eq!(driver.finished[&RequestId(2)].cached_tokens, 0);
    driver.load(RequestId(1));
    driver.run();
    assert!(driver.engine.is_drained());
    assert_eq!(driver.engine.stats().blocks_cached, 4, "both copies are known");
}

#[test]
fn a_failed_load_ends_the_request_with_an_error_by_default() {
    let mut driver = driver(20);
    driver.add(from_remote(1, &prompt(0, 9), 3));
    driver.step();
    driver.fail(RequestId(1));
    assert_eq!(driver.reason(1), Some(FinishReason::Error));
    assert!(driver.engine.is_drained());
    assert_eq!(driver.engine.stats().blocks_cached, 0, "nobody finds what was not loaded");
    let totals = driver.engine.stats().totals;
    assert_eq!((totals.remote_load_failures, totals.external_hits), (1, 0));
}

#[test]
fn a_failed_load_is_recomputed_when_asked_with_and_without_a_cached_prefix() {
    let recompute = |config: &mut EngineConfig| {
        config.kv_load_failure_policy = LoadFailurePolicy::Recompute;
    };
    let mut driver = driver_with(20, recompute);
    let tokens = prompt(0, 9);
    for id in [1, 2] {
        driver.add(from_remote(id, &tokens, 3));
        driver.run();
        driver.fail(RequestId(id));
        driver.run();
        let finished = &driver.finished[&RequestId(id)];
        assert_eq!((finished.reason, finished.remote_tokens), (FinishReason::Length, 0));
    }
    assert_eq!(driver.finished[&RequestId(2)].cached_tokens, 8);
    assert_eq!(driver.output(1), driver.output(2));
    assert!(driver.engine.is_drained());
}

#[test]
fn an_abort_before_the_first_step_asks_to_notify_the_remote() {
    let mut driver = driver(20);
    driver.add(from_remote(1, &prompt(0, 9), 3));
    assert_eq!(driver.engine.abort(RequestId(1)), AbortOutcome::FreedNotifyRemote);
    driver.add(request(2, &prompt(0, 9), 3, KvMode::Local));
    assert_eq!(driver.engine.abort(RequestId(2)), AbortOutcome::Freed);
    assert_eq!(driver.engine.abort(RequestId(3)), AbortOutcome::Unknown);
    assert!(driver.engine.is_drained());
    assert_eq!(driver.engine.stats().totals.finished_abort, 2);
}

#[test]
fn an_abort_during_a_load_keeps_the_blocks_until_the_load_ends_either_way() {
    for ends_well in [true, false] {
        let mut driver = driver(20);
        driver.add(from_remote(1, &prompt(0, 9), 3));
        driver.step();
        assert_eq!(driver.engine.abort(RequestId(1)), AbortOutcome::KeptUntilLoaded);
        assert_eq!(driver.engine.abort(RequestId(1)), AbortOutcome::Ignored);
        assert_eq!(driver.engine.stats().blocks_free, 16);
        assert!(!driver.engine.release(RequestId(1)), "a reader's end is not the load's");
        if ends_well {
            driver.load(RequestId(1))
        } else {
            driver.fail(RequestId(1))
        }
        assert!(driver.engine.is_drained());
        assert_eq!(driver.reason(1), None, "nobody is there to be told");
    }
}

#[test]
fn an_abort_in_mid_step_frees_at_once_and_the_step_ends_without_it() {
    let mut driver = driver(20);
    driver.add(request(1, &prompt(0, 9), 3, KvMode::Local));
    driver.add(request(2, &prompt(50, 9), 3, KvMode::Local));
    driver.schedule();
    assert_eq!(driver.engine.abort(RequestId(1)), AbortOutcome::Freed);
    // The id may be used again before the step ends; the step does not mean the new request.
    driver.add(request(1, &prompt(90, 9), 3, KvMode::Local));
    driver.finish();
    assert_eq!((driver.output(1).len(), driver.output(2).len()), (0, 1));
    driver.run();
    assert_eq!(driver.output(1).len(), 3);
    assert!(driver.engine.is_drained());
}

#[test]
fn a_stop_string_ends_a_request_as_stopped() {
    let mut driver = driver(20);
    driver.add(request(1, &prompt(0, 9), 30, KvMode::Local));
    driver.step();
    assert_eq!(driver.engine.stop(RequestId(1)), AbortOutcome::Freed);
    assert!(driver.engine.is_drained());
    assert_eq!(driver.engine.stats().totals.finished_stop, 1);
}

#[test]
fn stop_tokens_end_the_output_after_min_tokens_only() {
    let tokens = prompt(0, 9);
    let mut driver = driver_with(60, |config| config.eos_one_in = 0);
    driver.add(request(1, &tokens, 200, KvMode::Local));
    driver.run();
    let free = driver.output(1).to_vec();
    let stop = free[10];

    driver
        .add(NewRequest { stop_token_ids: vec![stop], ..request(2, &tokens, 200, KvMode::Local) });
    driver.run();
    let first = free.iter().position(|&token| token == stop).unwrap();
    assert_eq!(driver.output(2), &free[..=first]);
    let finished = &driver.finished[&RequestId(2)];
    assert_eq!((finished.reason, finished.stop_token), (FinishReason::Stop, Some(stop)));

    driver.add(NewRequest {
        stop_token_ids: vec![stop],
        min_tokens: 100,
        ..request(3, &tokens, 200, KvMode::Local)
    });
    driver.run();
    assert!(driver.output(3).len() > 100);
    assert!(!driver.output(3)[..100].contains(&stop));
}

#[test]
fn the_end_of_sequence_token_ends_unless_ignored() {
    let mut driver = driver_with(60, |config| config.eos_one_in = 1);
    driver.add(request(1, &prompt(0, 9), 20, KvMode::Local));
    driver.add(NewRequest { min_tokens: 5, ..request(2, &prompt(0, 9), 20, KvMode::Local) });
    driver.add(NewRequest { ignore_eos: true, ..request(3, &prompt(0, 9), 20, KvMode::Local) });
    driver.add(request(4, &prompt(0, 9), 1, KvMode::ProduceForRemote));
    driver.run();
    assert_eq!(driver.output(1), [EOS_TOKEN_ID]);
    assert_eq!(driver.finished[&RequestId(1)].stop_token, None);
    assert_eq!((driver.output(2).len(), driver.reason(2)), (6, Some(FinishReason::Stop)));
    assert_eq!((driver.output(3).len(), driver.reason(3)), (20, Some(FinishReason::Length)));
    assert_eq!(driver.reason(4), Some(FinishReason::Stop), "stopped, and pinned all the same");
    assert_eq!(driver.pinned[&RequestId(4)].len(), 3);
}

#[test]
fn the_model_length_caps_the_output() {
    let mut driver = driver_with(20, |config| config.max_model_len = 12);
    driver.add(request(1, &prompt(0, 9), 100, KvMode::Local));
    driver.run();
    assert_eq!((driver.output(1).len(), driver.reason(1)), (3, Some(FinishReason::Length)));
}

#[test]
fn the_last_running_request_is_preempted_and_computes_again() {
    // Seven blocks; two requests of two blocks each grow to four.
    let mut driver = driver_with(8, |config| config.prefix_caching = false);
    let (first, second) = (prompt(0, 8), prompt(50, 8));
    driver.add(request(1, &first, 8, KvMode::Local));
    driver.add(request(2, &second, 8, KvMode::Local));
    let mut preempted = Vec::new();
    while driver.engine.has_work() {
        let step = driver.engine.schedule();
        preempted.extend(step.preempted.iter().copied());
        if !step.preempted.is_empty() {
            assert_eq!(driver.engine.state(RequestId(2)), Some(RequestState::Preempted));
        }
        for event in driver.engine.finish_step(step) {
            if let Event::Token { id, token, .. } = event {
                driver.outputs.entry(id).or_default().push(token);
            }
        }
    }
    assert_eq!(preempted, [RequestId(2)]);
    assert_eq!(driver.engine.stats().totals.preemptions, 1);

    let mut alone = Driver::new(config(BLOCK, 8));
    alone.add(request(2, &second, 8, KvMode::Local));
    alone.run();
    assert_eq!(driver.output(2), alone.output(2), "preemption does not change the output");
}

#[test]
fn a_request_that_does_not_fit_waits_without_spinning_and_nobody_overtakes_it() {
    let mut driver = driver(8);
    driver.add(request(1, &prompt(0, 20), 1, KvMode::ProduceForRemote));
    driver.run();
    driver.add(request(2, &prompt(50, 12), 1, KvMode::Local));
    driver.add(request(3, &prompt(90, 2), 1, KvMode::Local));
    assert!(driver.engine.has_work());
    assert!(!driver.step(), "five of seven blocks are pinned");
    assert!(!driver.engine.has_work(), "nothing changes before somebody releases blocks");
    assert_eq!(driver.engine.stats().waiting, 2);
    driver.release(RequestId(1));
    assert!(driver.engine.has_work());
    driver.run();
    assert_eq!([driver.reason(2), driver.reason(3)], [Some(FinishReason::Length); 2]);
}

#[test]
fn a_load_does_not_get_in_the_way_of_a_running_prefill() {
    let mut driver = driver_with(8, |config| config.max_num_batched_tokens = 4);
    driver.add(request(1, &prompt(0, 16), 1, KvMode::Local));
    driver.step();
    // One block is taken, three more will be: three are left for a load of four.
    driver.add(from_remote(2, &prompt(50, 16), 1));
    assert!(driver.schedule().is_empty());
    driver.finish();
    driver.run();
    assert_eq!(driver.reason(1), Some(FinishReason::Length));
    assert_eq!(driver.engine.stats().totals.preemptions, 0);
    driver.load(RequestId(2));
    driver.run();
    assert!(driver.engine.is_drained());
}

#[test]
fn nobody_joins_in_a_step_that_has_to_preempt() {
    // Nine blocks: two for the load, seven for two requests of two that grow to four.
    let mut driver = driver_with(10, |config| config.prefix_caching = false);
    driver.add(from_remote(1, &prompt(0, 8), 1));
    driver.step();
    driver.add(request(2, &prompt(50, 8), 8, KvMode::Local));
    driver.add(request(3, &prompt(90, 8), 8, KvMode::Local));
    for _ in 0..5 {
        driver.step();
    }
    assert_eq!(driver.engine.stats().blocks_free, 1);
    driver.load(RequestId(1));
    let step = driver.engine.schedule();
    assert_eq!(step.preempted, [RequestId(3)]);
    assert_eq!(ids(&step), [2], "the loaded request waits, though it has all its blocks");
    driver.engine.finish_step(step);
    let step = driver.engine.schedule();
    assert_eq!(ids(&step), [2, 1]);
    driver.engine.finish_step(step);
}

#[test]
fn a_preempted_request_is_first_in_line() {
    let mut driver = driver_with(8, |config| config.prefix_caching = false);
    driver.add(request(1, &prompt(0, 8), 8, KvMode::Local));
    driver.add(request(2, &prompt(50, 8), 8, KvMode::Local));
    for _ in 0..5 {
        driver.step();
    }
    driver.add(request(3, &prompt(90, 2), 1, KvMode::Local));
    let step = driver.engine.schedule();
    assert_eq!((&step.preempted[..], ids(&step)), (&[RequestId(2)][..], vec![1]));
    driver.engine.finish_step(step);
    let step = driver.engine.schedule();
    assert_eq!(ids(&step), [1], "request 3 would fit, but 2 was there before it");
    driver.engine.finish_step(step);
}

#[test]
fn what_was_loaded_can_be_found_even_if_its_request_goes_away() {
    let mut driver = driver(20);
    driver.add(from_remote(1, &prompt(0, 9), 1));
    driver.step();
    driver.load(RequestId(1));
    assert_eq!(driver.engine.abort(RequestId(1)), AbortOutcome::Freed);
    assert_eq!(driver.engine.stats().blocks_cached, 2);
    assert!(driver.engine.is_drained());
}

#[test]
fn starting_a_load_needs_a_free_place_among_the_running() {
    let mut driver = driver_with(40, |config| config.max_num_seqs = 1);
    driver.add(request(1, &prompt(0, 4), 5, KvMode::Local));
    driver.step();
    driver.add(from_remote(2, &prompt(50, 8), 1));
    assert!(driver.schedule().is_empty());
    driver.finish();
    driver.run();
    assert_eq!(driver.loading.len(), 1, "it starts once request 1 is done");
}

#[test]
fn loaded_requests_go_before_waiting_ones_in_the_order_in_which_they_were_loaded() {
    let mut driver = driver_with(40, |config| config.max_num_seqs = 1);
    driver.add(from_remote(1, &prompt(0, 8), 5));
    driver.add(from_remote(2, &prompt(30, 8), 5));
    driver.step();
    assert_eq!(driver.loading.len(), 2, "a load takes no place among the running");
    driver.add(request(3, &prompt(60, 8), 5, KvMode::Local));
    driver.load(RequestId(2));
    driver.load(RequestId(1));
    let step = driver.engine.schedule();
    assert_eq!(ids(&step), [2]);
    driver.engine.finish_step(step);
}

#[test]
fn a_preempted_decode_leg_computes_locally_and_asks_its_remote_only_once() {
    let mut driver = driver(8);
    driver.add(request(1, &prompt(0, 8), 12, KvMode::Local));
    driver.step();
    driver.add(from_remote(2, &prompt(50, 8), 8));
    driver.step();
    driver.load(RequestId(2));
    driver.run();
    assert!(driver.finished[&RequestId(2)].num_preemptions > 0);
    assert_eq!(driver.engine.stats().totals.remote_loads, 1);
    let mut alone = Driver::new(config(BLOCK, 8));
    alone.add(request(2, &prompt(50, 8), 8, KvMode::Local));
    alone.run();
    assert_eq!(driver.output(2), alone.output(2));
}

#[test]
fn a_request_that_cannot_be_served_is_refused_with_the_limit() {
    let mut driver = driver_with(8, |config| {
        config.max_model_len = 12;
        config.max_num_queued_reqs = 1;
    });
    let mut refused = |new: NewRequest| driver.engine.add(new).unwrap_err().to_string();
    assert!(refused(request(1, &[], 1, KvMode::Local)).contains("empty"));
    let too_long = refused(request(1, &prompt(0, 12), 1, KvMode::Local));
    assert!(too_long.contains("12 tokens") && too_long.contains("at most 12"), "{too_long}");
    assert!(refused(request(1, &[1 << 20], 1, KvMode::Local)).contains("out of vocabulary"));
    assert!(refused(request(1, &[1], 0, KvMode::Local)).contains("max_tokens"));
    let contradiction = NewRequest { min_tokens: 3, ..request(1, &[1], 2, KvMode::Local) };
    assert!(refused(contradiction).contains("min_tokens 3"));
    driver.add(request(1, &[1], 1, KvMode::Local));
    let duplicate = driver.engine.add(request(1, &[1], 1, KvMode::Local));
    assert_eq!(duplicate, Err(AdmitError::DuplicateId(RequestId(1))));
    let full = driver.engine.add(request(2, &[1], 1, KvMode::Local));
    assert_eq!(full, Err(AdmitError::QueueFull { limit: 1 }));
    assert_eq!(driver.engine.stats().totals.requests, 1);
}

#[test]
fn a_step_finished_twice_over_does_not_count_twice() {
    let mut driver = driver(20);
    driver.add(request(1, &prompt(0, 4), 5, KvMode::Local));
    let (first, second) = (driver.engine.schedule(), driver.engine.schedule());
    assert_eq!(driver.engine.finish_step(first).len(), 1);
    assert_eq!(driver.engine.finish_step(second).len(), 0);
    assert_eq!(driver.engine.audit(), Ok(()));
}

#[test]
fn an_impossible_setting_is_refused() {
    let mut config = config(BLOCK, 8);
    config.max_model_len = 1000;
    assert_eq!(Engine::new(config).unwrap_err().field, "max_model_len");
}

#[test]
fn states_have_the_names_of_vllm() {
    let names = [
        (RequestState::Waiting, "WAITING"),
        (RequestState::WaitingForRemoteKvs, "WAITING_FOR_REMOTE_KVS"),
        (RequestState::Running, "RUNNING"),
        (RequestState::Preempted, "PREEMPTED"),
        (RequestState::Finished(FinishReason::Length), "FINISHED_LENGTH_CAPPED"),
        (RequestState::Finished(FinishReason::Stop), "FINISHED_STOPPED"),
        (RequestState::Finished(FinishReason::Abort), "FINISHED_ABORTED"),
        (RequestState::Finished(FinishReason::Error), "FINISHED_ERROR"),
    ];
    for (state, name) in names {
        assert_eq!(state.to_string(), name);
    }
}
