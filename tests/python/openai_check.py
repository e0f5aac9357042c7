#!/usr/bin/env python3
"""Drive an OpenAI-compatible endpoint with OpenAI's own client and check what it makes of the answers.

  openai_check.py BASE_URL MODEL

What the client parses into its types, raises as its error classes and reports as request ids is the contract.
Prints one line per check; the first one that fails ends the program with its trace.
"""
import sys

import openai

HELLO = [{"role": "user", "content": "hello"}]


def models(client, model):
    listed = client.models.list().data
    assert model in [m.id for m in listed], listed
    assert all(m.object == "model" for m in listed), listed
    assert client.models.retrieve(model).id == model


def chat(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=8, extra_body={"ignore_eos": True})
    assert answer.object == "chat.completion" and answer.model == model, answer
    (choice,) = answer.choices
    assert choice.finish_reason == "length" and choice.message.role == "assistant", choice
    assert choice.message.content.strip(), choice
    counted(answer.usage, 8)


def counted(usage, completion_tokens):
    assert usage.completion_tokens == completion_tokens and usage.prompt_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + completion_tokens, usage


def several_choices(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=4, n=2)
    assert [c.index for c in answer.choices] == [0, 1], answer
    assert all(c.finish_reason in ("length", "stop") for c in answer.choices), answer


def chat_stream(client, model):
    stream = client.chat.completions.create(
        model=model,
        messages=HELLO,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert all(c.object == "chat.completion.chunk" for c in chunks), chunks
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip(), chunks
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert reasons == ["length"], reasons
    assert not chunks[-1].choices, "usage comes last, with no choices"
    counted(chunks[-1].usage, 8)


def stream_without_usage(client, model):
    chunks = list(client.chat.completions.create(model=model, messages=HELLO, max_tokens=3, stream=True))
    assert all(c.usage is None for c in chunks), "usage that nobody asked for"


def completions(client, model):
    answer = client.completions.create(model=model, prompt="hello there", max_tokens=5, extra_body={"ignore_eos": True})
    assert answer.object == "text_completion" and answer.choices[0].text.strip(), answer
    counted(answer.usage, 5)
    chunks = list(
        client.completions.create(model=model, prompt="hello", max_tokens=5, stream=True, extra_body={"ignore_eos": True})
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices).strip(), chunks


def several_prompts(client, model):
    answer = client.completions.create(model=model, prompt=["hello there", "well"], max_tokens=3)
    assert [c.index for c in answer.choices] == [0, 1], answer


def unknown_model(client, _):
    error = raised(openai.NotFoundError, client, "no-such-model", HELLO)
    assert error.code == "model_not_found" and error.param == "model", error.body


def bad_request(client, model):
    error = raised(openai.BadRequestError, client, model, "not a list of messages")
    assert error.type == "invalid_request_error" and error.param == "messages", error.body


def too_long(client, model):
    for stream in (False, True):
        error = raised(openai.BadRequestError, client, model, [{"role": "user", "content": "hello " * 8000}], stream=stream)
        assert error.code == "context_length_exceeded", error.body


def slightly_too_long(client, model):
    """Only the engine, which has the tokenizer, can know that this does not fit."""
    for stream in (False, True):
        error = raised(openai.BadRequestError, client, model, [{"role": "user", "content": "hello " * 2100}], stream=stream)
        assert error.code == "context_length_exceeded" and "context" in error.message, error.body


def raised(kind, client, model, messages, **more):
    try:
        client.chat.completions.create(model=model, messages=messages, max_tokens=4, **more)
    except kind as error:
        assert error.request_id, "an error without a request id"
        assert isinstance(error.body, dict) and error.body["message"], error.body
        return error
    raise AssertionError(f"no {kind.__name__}")


def request_ids(client, model):
    def ask(headers):
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=HELLO, max_tokens=2, extra_headers=headers
        )
        return raw.request_id

    assert ask({"x-request-id": "mine-1"}) == "mine-1", "a safe id is kept"
    made = ask({"x-request-id": "not safe: {}"})
    assert made and "{" not in made, made
    assert ask({}) != ask({}), "ids are made where there are none"


CHECKS = (
    models,
    chat,
    several_choices,
    chat_stream,
    stream_without_usage,
    completions,
    several_prompts,
    unknown_model,
    bad_request,
    too_long,
    slightly_too_long,
    request_ids,
)


def main():
    base_url, model = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="not-needed", max_retries=0, timeout=20)
    for check in CHECKS:
        check(client, model)
        print("ok", check.__name__, flush=True)


if __name__ == "__main__":
    main()
