//! Who goes first when tokens, places or blocks are short.

use pdlab_engine::*;

use crate::driver::{BLOCK, Driver, config, driver, driver_with, from_remote, prompt, request};

fn ids(step: &Step) -> Vec<u64> {
    step.computed.iter().map(|computed| computed.id.0).collect()
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
