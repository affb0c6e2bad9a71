"""Uses the simulated server as people use a real one: sim_clients.py URL MODEL. Prints "all is well"."""

import sys
import urllib.request

import openai
from prometheus_client.parser import text_string_to_metric_families

url, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)

assert [card.id for card in client.models.list()] == [model]

answer = client.completions.create(model=model, prompt="one two three", max_tokens=7, logprobs=2, extra_body={"ignore_eos": True})
assert answer.usage.completion_tokens == 7 and answer.choices[0].finish_reason == "length"
assert len(answer.choices[0].logprobs.tokens) == 7
assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text

chat = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "hello"}],
    max_completion_tokens=5,
    n=2,
    logprobs=True,
    top_logprobs=2,
    extra_body={"ignore_eos": True},
)
assert len(chat.choices) == 2 and chat.usage.completion_tokens == 10
assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 2

text, last = "", None
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "hello"}],
    max_tokens=9,
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"ignore_eos": True},
)
for chunk in stream:
    last = chunk
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
assert last.usage.completion_tokens == 9 and len(text.split()) == 9, (last, text)

for call, error in [
    (lambda: client.completions.create(model="nope", prompt="x"), openai.NotFoundError),
    (lambda: client.completions.create(model=model, prompt="x", max_tokens=0), openai.BadRequestError),
    (lambda: openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list(), openai.AuthenticationError),
]:
    try:
        call()
    except error as refusal:
        assert refusal.body or refusal.response is not None
    else:
        raise AssertionError(f"no {error}")

page = urllib.request.urlopen(f"{url}/metrics").read().decode()
families = {family.name: family for family in text_string_to_metric_families(page)}
generated = sum(sample.value for sample in families["vllm:generation_tokens"].samples if sample.name.endswith("_total"))
assert generated == 7 + 10 + 9, generated
buckets = [sample for sample in families["vllm:time_to_first_token_seconds"].samples if sample.name.endswith("_bucket")]
assert buckets[-1].labels["le"] == "+Inf" and buckets[-1].value == 4.0, buckets[-1]
assert set(buckets[0].labels) == {"engine", "le", "model_name"}
print("all is well")
