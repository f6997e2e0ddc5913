//! The whole path over real processes: what clients see when all is well.

use crate::common::{Role, Trio, Up, get, post, stream};
use serde_json::{Value, json};

/// 61 tokens: three full blocks and a partial one.
const PROMPT: &str = "The quick brown fox jumps over the lazy dog, again and again.";

fn completions(role: &Role) -> String {
    format!("{}/v1/completions", role.url())
}

fn chats(role: &Role) -> String {
    format!("{}/v1/chat/completions", role.url())
}

#[tokio::test]
async fn a_completion_moves_its_kv_and_leaves_nothing_behind() {
    let trio = Trio::start(&[], &[]);
    let body = json!({"prompt": PROMPT, "max_tokens": 20, "ignore_eos": true});
    let (status, answer) = post(&completions(&trio.router), body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 20);
    assert_eq!(answer["usage"]["prompt_tokens"], 61);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["text"].as_str().unwrap().len(), 20);
    assert!(answer["kv_transfer_params"].is_null());

    let (prefill, decode) = trio.drained().await;
    assert_eq!(decode["work"]["blocks_verified"], 4);
    assert_eq!(decode["work"]["transfers"], 1);
    assert_eq!(decode["work"]["kv_bytes"], decode["transport"]["bytes_read"]);
    assert_eq!(
        prefill["work"]["generation_tokens"], 1,
        "prefill makes one token, which is dropped"
    );
}

#[tokio::test]
async fn the_text_is_the_same_with_and_without_disaggregation() {
    let trio = Trio::start(&[], &[]);
    let body = json!({"prompt": PROMPT, "max_tokens": 30, "ignore_eos": true});
    let (_, through) = post(&completions(&trio.router), body.clone()).await;
    let (_, alone) = post(&completions(&trio.prefill), body).await;
    assert_eq!(through["choices"][0]["text"], alone["choices"][0]["text"]);
}

#[tokio::test]
async fn a_cluster_serves_its_model_under_the_name_it_was_given() {
    let up = Up::start(&["--served-model-name", "org/mine"]);
    let url = up.addresses["url"].as_str().unwrap();
    let (_, models) = get(&format!("{url}/v1/models")).await;
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["root"]),
        (&"org/mine".into(), &"llama-3.1-8b".into())
    );
    let ask = async |model: &str| {
        let body = json!({"model": model, "prompt": PROMPT, "max_tokens": 2});
        post(&format!("{url}/v1/completions"), body).await
    };
    let (status, answer) = ask("org/mine").await;
    assert_eq!((status, &answer["model"]), (200, &"org/mine".into()), "{answer}");
    assert_eq!(ask("llama-3.1-8b").await.0, 404, "the preset's name is no longer served");
}

#[tokio::test]
async fn the_router_has_one_thread_that_does_it_all() {
    let trio = Trio::start(&[], &[]);
    let body = json!({"prompt": PROMPT, "max_tokens": 4});
    assert_eq!(post(&completions(&trio.router), body).await.0, 200);
    let threads = std::fs::read_dir(format!("/proc/{}/task", trio.router.pid())).unwrap();
    assert_eq!(threads.count(), 1, "every further one is woken for nothing");
}

#[tokio::test]
async fn a_shared_prefix_is_read_once() {
    let trio = Trio::start(&[], &[]);
    for end in ["one", "two"] {
        let body = json!({"prompt": format!("{PROMPT}{end}"), "max_tokens": 1});
        assert_eq!(post(&completions(&trio.router), body).await.0, 200);
    }
    let (_, decode) = trio.drained().await;
    // 64 tokens are four blocks; of the second prompt only the last block is new.
    assert_eq!(decode["work"]["blocks_verified"], 4 + 1);
}

#[tokio::test]
async fn streams_carry_tokens_then_usage_then_done() {
    let trio = Trio::start(&[], &[]);
    let options = json!({"include_usage": true});
    let body = json!({"prompt": PROMPT, "max_tokens": 5, "stream": true, "stream_options": options,
                      "ignore_eos": true});
    let (events, done) = stream(&completions(&trio.router), body).await;
    assert!(done);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!(text.len(), 5);
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 5);

    let messages = json!([{"role": "user", "content": "hello"}]);
    let body = json!({"messages": messages, "max_tokens": 3, "stream": true, "ignore_eos": true});
    let (events, done) = stream(&chats(&trio.router), body).await;
    assert!(done);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    trio.drained().await;
}

#[tokio::test]
async fn limits_and_stops_are_obeyed() {
    let trio = Trio::start(&[], &["--eos-one-in", "1"]);
    let ask = async |body: Value| post(&completions(&trio.router), body).await.1;
    // Every token is end-of-sequence here, unless something forbids it.
    let stopped = ask(json!({"prompt": PROMPT, "max_tokens": 9})).await;
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["usage"]["completion_tokens"], 1);
    let least = ask(json!({"prompt": PROMPT, "max_tokens": 9, "min_tokens": 4})).await;
    assert_eq!(least["usage"]["completion_tokens"], 5);
    let ignored = ask(json!({"prompt": PROMPT, "max_tokens": 9, "ignore_eos": true})).await;
    assert_eq!(ignored["usage"]["completion_tokens"], 9);

    let text = ignored["choices"][0]["text"].as_str().unwrap();
    let stop = &text[4..6];
    let body = json!({"prompt": PROMPT, "max_tokens": 9, "ignore_eos": true, "stop": [stop]});
    let cut = ask(body).await;
    assert_eq!(cut["choices"][0]["text"], text[..text.find(stop).unwrap()]);
    assert_eq!(cut["choices"][0]["stop_reason"], stop);
    trio.drained().await;
}

#[tokio::test]
async fn token_ids_are_as_good_as_text() {
    let trio = Trio::start(&[], &[]);
    let (_, tokens) = post(
        &format!("{}/tokenize", trio.router.url()),
        json!({"prompt": PROMPT, "return_token_strs": true}),
    )
    .await;
    assert_eq!(tokens["count"], 61);
    let body = json!({"prompt": tokens["tokens"], "max_tokens": 4, "return_token_ids": true});
    let (_, by_id) = post(&completions(&trio.router), body).await;
    let (_, by_text) =
        post(&completions(&trio.router), json!({"prompt": PROMPT, "max_tokens": 4})).await;
    assert_eq!(by_id["choices"][0]["text"], by_text["choices"][0]["text"]);
    assert_eq!(by_id["choices"][0]["prompt_token_ids"], tokens["tokens"]);
    let ids = json!({"tokens": by_id["choices"][0]["token_ids"]});
    let (_, back) = post(&format!("{}/detokenize", trio.router.url()), ids).await;
    assert_eq!(back["prompt"], by_id["choices"][0]["text"]);
}

#[tokio::test]
async fn workers_show_vllms_routes_and_metrics() {
    let trio = Trio::start(&[], &[]);
    post(&completions(&trio.router), json!({"prompt": PROMPT, "max_tokens": 3})).await;
    let at = |role: &Role, path: &str| format!("{}{path}", role.url());
    assert_eq!(get(&at(&trio.decode, "/version")).await.1["version"], "0.33.0");
    let (_, models) = get(&at(&trio.router, "/v1/models")).await;
    assert_eq!(models["data"][0]["id"], "llama-3.1-8b");
    for path in ["/health", "/ping", "/load"] {
        assert_eq!(get(&at(&trio.prefill, path)).await.0, 200, "{path}");
    }
    let metrics = |role: &Role| reqwest::get(at(role, "/metrics"));
    let decode = metrics(&trio.decode).await.unwrap().text().await.unwrap();
    for name in [
        "vllm:num_requests_running{model_name=\"llama-3.1-8b\",engine=\"0\"}",
        "vllm:generation_tokens_total",
        "vllm:kv_cache_usage_perc",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:request_success_total",
        "vllm:nixl_bytes_transferred_sum",
        "vllm:cache_config_info",
    ] {
        assert!(decode.contains(name), "{name} is missing in\n{decode}");
    }
    let prefill = metrics(&trio.prefill).await.unwrap().text().await.unwrap();
    assert!(prefill.contains("vllm:nixl_num_kv_expired_reqs_total"));
}

#[tokio::test]
async fn many_requests_at_once_all_come_right() {
    let trio = Trio::start(&[], &["--churn-per-step", "3"]);
    let url = completions(&trio.router);
    let requests = (0..64).map(|n| {
        let url = url.clone();
        let body =
            json!({"prompt": format!("{n} {PROMPT} {n}"), "max_tokens": 8, "ignore_eos": true});
        tokio::spawn(async move { post(&url, body).await })
    });
    for request in requests.collect::<Vec<_>>() {
        let (status, answer) = request.await.unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["usage"]["completion_tokens"], 8);
    }
    let (_, decode) = trio.drained().await;
    assert_eq!(decode["work"]["transfers"], 64);
    let (steps, unmaps) = (&decode["work"]["steps"], &decode["work"]["unmaps"]);
    assert_eq!(unmaps.as_u64(), steps.as_u64().map(|n| n * 3), "churn is counted exactly");
}

#[tokio::test]
async fn churn_can_be_switched_while_decode_runs() {
    let decode = Role::start(&["decode", "--transport", "tcp"]);
    let url = format!("{}/pdlab/churn", decode.url());
    assert_eq!(get(&url).await.1["rate"], 0.0);
    let (status, settings) = post(&url, json!({"rate": 2000.0, "pattern": "madvise"})).await;
    assert_eq!(status, 200, "{settings}");
    assert_eq!((&settings["pattern"], &settings["bytes"]), (&json!("madvise"), &json!(4096)));
    crate::common::eventually("memory is unmapped without requests", async || {
        let unmaps = decode.snapshot().await["work"]["unmaps"].as_u64()?;
        (unmaps >= 100).then_some(())
    })
    .await;
    for wrong in [json!({"rate": -1}), json!({"speed": 1}), json!({"pattern": "sideways"})] {
        assert_eq!(post(&url, wrong.clone()).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn sigterm_ends_a_role_in_order() {
    let trio = Trio::start(&[], &[]);
    post(&completions(&trio.router), json!({"prompt": PROMPT, "max_tokens": 3})).await;
    assert_eq!(trio.router.terminate(), Some(0));
    assert_eq!(trio.decode.terminate(), Some(0));
    assert_eq!(trio.prefill.terminate(), Some(0));
}
