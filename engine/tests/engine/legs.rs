//! The two legs of a disaggregated request: what is pinned, loaded, notified and freed.

use pdlab_engine::*;

use crate::driver::{driver, driver_with, from_remote, prompt, request};

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
    assert_eq!((totals.remote_load_failures, totals.prompt_tokens_remote), (1, 0));
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
    let totals = driver.engine.stats().totals;
    assert_eq!((totals.prefix_queries, totals.prefix_hits), (18, 8), "each is counted once");
    assert_eq!((totals.prompt_tokens_remote, totals.prompt_tokens_computed), (0, 10));
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
fn what_was_loaded_can_be_found_even_if_its_request_goes_away() {
    let mut driver = driver(20);
    driver.add(from_remote(1, &prompt(0, 9), 1));
    driver.step();
    driver.load(RequestId(1));
    assert_eq!(driver.engine.abort(RequestId(1)), AbortOutcome::Freed);
    assert_eq!(driver.engine.stats().blocks_cached, 2);
    assert!(driver.engine.is_drained());
}
