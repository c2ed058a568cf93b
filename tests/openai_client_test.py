"""The `openai` Python client against a whole cluster: what its users do, they can do here."""
import json
import math
import time

import openai
import pytest

from cluster import Cluster

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Current weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Oslo?"}]


@pytest.fixture(scope="module")
def cluster():
    with Cluster(workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def client(cluster):
    return openai.OpenAI(base_url=cluster.url + "/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


def test_models(client, model):
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, temperature=0,
                                            messages=[{"role": "user", "content": "Hello! Who are you?"}])
    assert "Braid" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_says_what_the_whole_answer_says(client, model):
    request = dict(model=model, temperature=1.0, seed=11, max_completion_tokens=60,
                   messages=[{"role": "user", "content": "What is 47 + 38?"}])
    whole = client.chat.completions.create(**request)
    content, reasoning, usage, finish = "", "", None, None
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **request):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or finish
    message = whole.choices[0].message
    assert content == (message.content or "")
    assert reasoning == (getattr(message, "reasoning_content", None) or "")
    assert (finish, usage) == (whole.choices[0].finish_reason, whole.usage)


def test_reasoning_is_apart_from_the_answer(client, model):
    answer = client.chat.completions.create(model=model, temperature=0,
                                            messages=[{"role": "user", "content": "What is 47 + 38?"}])
    message = answer.choices[0].message
    assert "47 + 38" in message.reasoning_content and "think>" not in message.reasoning_content
    assert "47 + 38 = 85" in message.content and "think>" not in message.content


def test_tool_loop(client, model):
    """The model calls, the client answers, the model uses the answer."""
    messages = list(ASK_WEATHER)
    first = client.chat.completions.create(model=model, temperature=0, messages=messages, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    call = first.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    messages += [first.choices[0].message.model_dump(exclude_none=True),
                 {"role": "tool", "tool_call_id": call.id,
                  "content": json.dumps({"city": "Oslo", "temperature": 17, "sky": "cloudy"})}]
    second = client.chat.completions.create(model=model, temperature=0, messages=messages, tools=[WEATHER])
    assert second.choices[0].finish_reason == "stop"
    assert "17" in second.choices[0].message.content


def test_streamed_tool_call_is_the_whole_one(client, model):
    request = dict(model=model, temperature=0, messages=ASK_WEATHER, tools=[WEATHER])
    whole = client.chat.completions.create(**request).choices[0].message.tool_calls[0]
    name, arguments, ids = "", "", set()
    for chunk in client.chat.completions.create(stream=True, **request):
        for call in chunk.choices[0].delta.tool_calls or []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
            ids |= {call.id} - {None}
    assert (name, arguments) == (whole.function.name, whole.function.arguments)
    assert len(ids) == 1


def test_several_calls_at_once(client, model):
    answer = client.chat.completions.create(model=model, temperature=0, tools=[WEATHER], messages=[
        {"role": "user", "content": "What is the weather in Oslo and what is the weather in Delhi?"}])
    calls = answer.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "Delhi"}]
    assert len({call.id for call in calls}) == 2


def test_calls_in_the_json_form(client, model):
    answer = client.chat.completions.create(model=model, temperature=0, tools=[WEATHER], messages=[
        {"role": "system", "content": "Output function calls as JSON."}, *ASK_WEATHER])
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    assert not answer.choices[0].message.content


def test_tool_choice_none_hides_the_tools(client, model):
    answer = client.chat.completions.create(model=model, temperature=0, messages=ASK_WEATHER, tools=[WEATHER],
                                            tool_choice="none", max_tokens=40)
    assert not answer.choices[0].message.tool_calls


def test_logprobs(client, model):
    answer = client.chat.completions.create(model=model, temperature=0, logprobs=True, top_logprobs=3, max_tokens=8,
                                            messages=[{"role": "user", "content": "Hello! Who are you?"}])
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= 0 and sum(math.exp(t.logprob) for t in entry.top_logprobs) <= 1 + 1e-5
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob


def test_two_choices_are_two_draws_and_repeat_with_the_seed(client, model):
    request = dict(model=model, n=2, temperature=1.5, seed=5, max_tokens=40,
                   messages=[{"role": "user", "content": "Tell me something."}])
    first, again = client.chat.completions.create(**request), client.chat.completions.create(**request)
    texts = [c.message.content for c in first.choices]
    assert [c.index for c in first.choices] == [0, 1]
    assert texts == [c.message.content for c in again.choices]
    assert texts[0] != texts[1]


def test_stop_string_ends_the_answer_before_it(client, model):
    whole = client.completions.create(model=model, prompt="1 2 3", max_tokens=30, temperature=0).choices[0].text
    stop = whole[5:8]
    cut = client.completions.create(model=model, prompt="1 2 3", max_tokens=30, temperature=0, stop=[stop])
    assert cut.choices[0].text == whole[:whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_echo_with_logprobs(client, model):
    answer = client.completions.create(model=model, prompt="The river", max_tokens=3, echo=True, logprobs=2,
                                       temperature=0).choices[0]
    assert answer.text.startswith("The river") or answer.logprobs.tokens[1:]
    assert answer.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in answer.logprobs.token_logprobs[1:])


def test_a_cancelled_stream_stops_the_work(cluster, client, model):
    stream = client.completions.create(model=model, prompt="a", max_tokens=4000, temperature=1.5, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    assert cluster.metric("braid_router_sequences_running", cluster.router_metrics_port) == 1
    stream.close()
    for _ in range(200):
        if cluster.metric("braid_router_sequences_running", cluster.router_metrics_port) == 0:
            break
        time.sleep(0.02)
    assert cluster.metric("braid_router_sequences_running", cluster.router_metrics_port) == 0
    assert cluster.metric("braid_kv_blocks_used", cluster.router_metrics_port) == 0
