"""The two requests that vLLM's toy proxy makes of a prefill and a decode worker.

Same fields, same headers, same order as
https://github.com/vllm-project/vllm/blob/main/tests/v1/kv_connector/nixl_integration/toy_proxy_server.py

usage: toy_proxy_flow.py PREFILL_URL DECODE_URL
"""

import json
import sys
import uuid

import httpx

prefill, decode = (httpx.Client(base_url=f"{url}/v1", timeout=30) for url in sys.argv[1:3])


def two_legs(path, body):
    headers = {"Authorization": "Bearer None", "X-Request-Id": str(uuid.uuid4())}
    leg = dict(body)
    leg["kv_transfer_params"] = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    leg["stream"] = False
    leg["max_tokens"] = 1
    if "max_completion_tokens" in leg:
        leg["max_completion_tokens"] = 1
    leg.pop("stream_options", None)
    answer = prefill.post(path, json=leg, headers=headers)
    answer.raise_for_status()

    params = answer.json().get("kv_transfer_params") or {}
    assert params["do_remote_prefill"] is True, params
    assert all(isinstance(group, list) for group in params["remote_block_ids"]), params
    assert headers["X-Request-Id"] in params["remote_request_id"], params
    body = dict(body, kv_transfer_params=params)
    with decode.stream("POST", path, json=body, headers=headers) as response:
        response.raise_for_status()
        return b"".join(response.iter_bytes()).decode()


plain = {"model": "llama-3.1-8b", "prompt": "San Francisco is a", "max_tokens": 9, "ignore_eos": True}
whole = json.loads(two_legs("/completions", plain))
assert whole["usage"]["completion_tokens"] == 9, whole

streamed = two_legs("/completions", dict(plain, stream=True))
events = [line[6:] for line in streamed.split("\n") if line.startswith("data: ")]
assert events[-1] == "[DONE]", streamed
text = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
assert text == whole["choices"][0]["text"], (text, whole)

chat = {
    "model": "llama-3.1-8b",
    "messages": [{"role": "user", "content": "hello"}],
    "max_completion_tokens": 5,
    "min_tokens": 1,
    "ignore_eos": True,
}
whole = json.loads(two_legs("/chat/completions", chat))
assert whole["usage"]["completion_tokens"] == 5, whole
print("ok")
