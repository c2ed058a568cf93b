"""A grpcio client that knows nothing but the address: it learns braid.v1 by reflection, then does what others do."""
import json

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cluster import Cluster


class Reflected:
    """Calls of one service, messages given as keyword arguments."""

    def __init__(self, channel, service):
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.channel, self.service = channel, pool.FindServiceByName(service)

    def __call__(self, method, **fields):
        found = self.service.methods_by_name[method]
        request = message_factory.GetMessageClass(found.input_type)(**fields)
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        answer = message_factory.GetMessageClass(found.output_type)
        return kind(f"/{self.service.full_name}/{method}", request_serializer=lambda m: m.SerializeToString(),
                    response_deserializer=answer.FromString)(request, timeout=60)


@pytest.fixture(scope="module")
def cluster():
    with Cluster(workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def channel(cluster):
    with grpc.insecure_channel(cluster.grpc_address) as open_channel:
        yield open_channel


@pytest.fixture(scope="module")
def call(channel):
    return Reflected(channel, "braid.v1.Inference")


def fold(stream):
    """The events of choice 0, put together."""
    said = {"reasoning": "", "content": "", "calls": [], "reason": None, "usage": None}
    for event in stream:
        kind = event.WhichOneof("event")
        if kind in ("reasoning", "content"):
            said[kind] += getattr(event, kind)
        elif kind == "tool_call":
            if event.tool_call.name:
                said["calls"].append([event.tool_call.id, event.tool_call.name, ""])
            said["calls"][event.tool_call.index][2] += event.tool_call.arguments
        elif kind == "finished":
            said["reason"] = event.finished.reason
        elif kind == "usage":
            said["usage"] = event.usage
    return said


def test_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "braid.v1.Inference"):
        # The stream says every change, so that nothing depends on which door hears first that the router is ready.
        states = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert any(state.status == health_pb2.HealthCheckResponse.SERVING for state in states)


def test_list_models(call):
    models = call("ListModels").models
    assert len(models) == 1 and models[0].has_chat_template and models[0].context_tokens_max > 2000


def test_chat(call):
    said = fold(call("Chat", messages=[{"role": "user", "content": "What is 47 + 38?"}], options={"temperature": 0}))
    assert "47 + 38" in said["reasoning"] and "47 + 38" in said["content"]
    assert said["reason"] == 1 and said["usage"].completion_tokens > 0
    assert 0 < said["usage"].reasoning_tokens < said["usage"].completion_tokens


def test_tool_loop(call):
    tools = [{"name": "get_weather", "description": "Current weather in a city",
              "parameters": json.dumps({"type": "object", "properties": {"city": {"type": "string"}},
                                        "required": ["city"]})}]
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = fold(call("Chat", messages=messages, tools=tools, options={"temperature": 0}))
    assert first["reason"] == 3
    (identity, name, arguments), = first["calls"]
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Oslo"})
    messages += [{"role": "assistant", "content": first["content"], "reasoning": first["reasoning"],
                  "tool_calls": [{"id": identity, "name": name, "arguments": arguments}]},
                 {"role": "tool", "tool_call_id": identity,
                  "content": json.dumps({"city": "Oslo", "temperature": 17, "sky": "cloudy"})}]
    assert "17" in fold(call("Chat", messages=messages, tools=tools, options={"temperature": 0}))["content"]


def test_generate_from_text_and_from_tokens_is_the_same(call):
    tokens = list(call("Tokenize", text="The river").tokens)
    options = {"temperature": 1.0, "seed": 3, "max_tokens": 12}

    def generated(**prompt):
        return [t for event in call("Generate", options=options, **prompt) for t in event.text.tokens]

    from_text = generated(text="The river")
    assert len(from_text) >= 1
    assert generated(tokens={"tokens": tokens}) == from_text


def test_both_doors_say_the_same(cluster, call):
    said = fold(call("Chat", messages=[{"role": "user", "content": "Tell me something."}],
                     options={"temperature": 1.0, "seed": 9, "max_tokens": 50}))
    status, answer = cluster.post("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "Tell me something."}], "temperature": 1.0, "seed": 9,
        "max_tokens": 50})
    assert status == 200
    message = answer["choices"][0]["message"]
    assert (said["content"], said["reasoning"]) == (message["content"] or "", message.get("reasoning_content") or "")


def test_detokenize_undoes_tokenize(call):
    text = "Naïve 東京 🙂 \n\tdef f(x): return 'x'"
    tokens = call("Tokenize", text=text, add_special_tokens=False).tokens
    assert call("Detokenize", tokens=tokens).text == text


def test_two_choices_and_logprobs(call):
    events = list(call("Chat", messages=[{"role": "user", "content": "Tell me something."}],
                       options={"temperature": 1.5, "seed": 1, "n": 2, "max_tokens": 10, "logprobs": True,
                                "top_logprobs": 2}))
    assert {event.choice for event in events if event.WhichOneof("event") == "finished"} == {0, 1}
    scores = [token for event in events if event.WhichOneof("event") == "logprobs" for token in event.logprobs.tokens]
    assert scores and all(score.logprob <= 0 and len(score.top) == 2 for score in scores)


def test_a_cancelled_call_stops_the_work(cluster, call):
    stream = call("Generate", text="a", options={"max_tokens": 4000, "temperature": 1.5, "ignore_eos": True})
    next(stream)
    stream.cancel()
    for _ in range(500):
        if cluster.metric("braid_router_sequences_running", cluster.router_metrics_port) == 0:
            return
    raise AssertionError("the sequence goes on without its caller")
