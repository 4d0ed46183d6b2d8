#!/usr/bin/env python3
"""Talks to a running service of a sweep with the official `openai` package (pip install openai), and with litellm where that
is installed (pip install litellm).

Usage: openai-client.py TASK_DIR      a directory that holds service.json and token
Ends with status 0 when every kind of call behaves as the package expects.
"""

import json
import pathlib
import sys

import openai

task = pathlib.Path(sys.argv[1])
lease = json.loads((task / "service.json").read_text())
token = (task / lease["token_file"]).read_text().strip()
client = openai.OpenAI(base_url=lease["url"] + "/v1", api_key=token, max_retries=0)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "Read integers from one line. Count the numbers above 40."}]


def ask(**more):
    return client.chat.completions.create(model=model, messages=messages, max_tokens=40, seed=7, **more)


def refused(kind, call):
    try:
        call()
    except kind as error:
        print(f"{kind.__name__}: {error.body['message']}")
        return
    sys.exit(f"expected {kind.__name__}, got an answer")


whole = ask(n=3)
assert [c.index for c in whole.choices] == [0, 1, 2] and whole.usage.completion_tokens > 0
print("answer:", repr(whole.choices[0].message.content))
assert ask(n=3).choices[1].message.content == whole.choices[1].message.content, "a seed must repeat"
chunks = list(ask(stream=True, stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
assert chunks[-1].usage.completion_tokens > 0
assert text == ask().choices[0].message.content, "a stream must say what the whole answer says"
scored = ask(logprobs=True).choices[0].logprobs.content
assert scored and all(t.logprob <= 0 for t in scored)
plain = client.completions.create(model=model, prompt=["a", "b"], max_tokens=4, n=2, logprobs=1)
assert len(plain.choices) == 4 and len(plain.choices[0].logprobs.tokens) <= 4
refused(openai.BadRequestError, lambda: ask(temperature=9))
refused(openai.NotFoundError, lambda: client.models.retrieve("other"))
refused(openai.AuthenticationError, lambda: openai.OpenAI(base_url=lease["url"] + "/v1", api_key="x").models.list())
stopped = ask(stop=[whole.choices[0].message.content[:3]]) if len(whole.choices[0].message.content) > 3 else None
assert stopped is None or stopped.choices[0].message.content == "", "a stop text is no part of the answer"
for other in client.models.list().data[1:]:
    tuned = client.chat.completions.create(model=other.id, messages=messages, max_tokens=40, seed=7)
    assert tuned.model == other.id
    print(f"adapter {other.id}:", repr(tuned.choices[0].message.content))
print("all calls of openai behave")

try:
    import litellm
except ImportError:
    sys.exit("litellm is not installed: its calls were not made")

litellm.telemetry = False
there = {"api_base": lease["url"] + "/v1", "api_key": token, "max_retries": 0}


def lite(**more):
    return litellm.completion(model="openai/" + model, messages=messages, max_tokens=40, seed=7, **there, **more)


answer = lite(n=2, temperature=1.0, top_p=0.95, stop=["\n\n"], user="me", metadata={"run": "1"})
assert [c.index for c in answer.choices] == [0, 1] and answer.usage.completion_tokens > 0
streamed = list(lite(stream=True, stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in streamed if c.choices)
assert text == ask().choices[0].message.content, "a stream must say what the whole answer says"
# what litellm passes on unread: extra_body, for parameters that OpenAI does not have
assert lite(extra_body={"top_k": 5, "min_p": 0.1}).choices[0].message.content is not None
assert lite(logprobs=True).choices[0].logprobs.content
done = litellm.text_completion(model="text-completion-openai/" + model, prompt="a", max_tokens=4, seed=1, **there)
assert done.choices[0].text is not None
for kind, call in [(litellm.BadRequestError, lambda: lite(temperature=9)),
                   (litellm.NotFoundError, lambda: litellm.completion(model="openai/other", messages=messages, **there))]:
    try:
        call()
        sys.exit(f"expected {kind.__name__}, got an answer")
    except kind as error:
        print(f"litellm: {kind.__name__}")
print("all calls of litellm behave")
