//! One request by itself: from its first step to its last token, and what is refused.

use pdlab_engine::*;

use crate::driver::{BLOCK, config, driver, driver_with, prompt, request};

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
