"""The official OpenAI client against a base URL: what a user's program does first.

usage: openai_client.py http://HOST:PORT/v1
"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=30)

model = client.models.list().data[0].id

completion = client.completions.create(
    model=model, prompt="The quick brown fox", max_tokens=12, extra_body={"ignore_eos": True}
)
assert completion.usage.completion_tokens == 12, completion
assert completion.choices[0].finish_reason == "length", completion
assert len(completion.choices[0].text) == 12, completion

messages = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": [{"type": "text", "text": "Say something."}]},
]
chat = client.chat.completions.create(
    model=model, messages=messages, max_completion_tokens=7, extra_body={"ignore_eos": True}
)
assert chat.choices[0].message.role == "assistant", chat
assert len(chat.choices[0].message.content) == 7, chat

stream = client.chat.completions.create(
    model=model,
    messages=messages,
    max_completion_tokens=7,
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"ignore_eos": True},
)
text, usage = "", None
for chunk in stream:
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
assert text == chat.choices[0].message.content, (text, chat)
assert usage.completion_tokens == 7, usage

try:
    client.completions.create(model="no-such-model", prompt="x")
except openai.NotFoundError as error:
    assert "no-such-model" in str(error), error
else:
    raise AssertionError("an unknown model must be a NotFoundError")

try:
    client.completions.create(model=model, prompt="x", max_tokens=0)
except openai.BadRequestError as error:
    assert error.param == "max_tokens", error
else:
    raise AssertionError("max_tokens=0 must be a BadRequestError")

print("ok")
