"""`POST /v1/completions`: what comes back, in every shape a client can ask for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from model.text.prompts import Infill, Raw, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

PROMPT = "import math\n\nclass Größe:\n"


async def complete(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def stream(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await client.post("/v1/completions", json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") for event in events)
    return [json.loads(event[len("data: ") :]) for event in events]


async def test_a_completion_has_openais_shape(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await complete(client, model=MODEL, prompt=PROMPT, max_tokens=200)
    request = fake_backend.requests[0]
    prompt_tokens = len(fake_backend.tokenizer.encode(PROMPT))
    generated = len(fake_backend.tokens()) + 1
    created = answer.pop("created")
    assert isinstance(created, int)
    assert answer == {
        "id": f"cmpl-{request.request_id}",
        "object": "text_completion",
        "model": MODEL,
        "choices": [{"index": 0, "text": ANSWER, "logprobs": None, "finish_reason": "stop", "stop_reason": None}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": prompt_tokens // 16 * 16},
        },
    }


async def test_max_tokens_is_16_where_nothing_is_said(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    answer = await complete(client, prompt=PROMPT, max_tokens=None)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 16


async def test_every_form_of_prompt(client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    one, two = "def f():", "x = 1"
    ids = [tokenizer.encode(one), tokenizer.encode(two)]
    forms: list[tuple[Any, list[list[int]]]] = [
        (one, ids[:1]),
        ([one, two], ids),
        (ids[0], ids[:1]),
        (ids, ids),
    ]
    for prompt, rendered in forms:
        answer = await complete(client, prompt=prompt)
        assert fake_backend.requests[-1].prompts == rendered
        assert [choice["index"] for choice in answer["choices"]] == list(range(len(rendered)))
        assert answer["usage"]["prompt_tokens"] == sum(map(len, rendered))


async def test_special_tokens_count_in_a_raw_prompt_but_never_in_a_suffix(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    raw = "<fim_prefix>a = <fim_suffix>\nb<fim_middle>"
    await complete(client, prompt=raw)
    assert fake_backend.requests[-1].prompts == [Raw().encode(tokenizer, raw)]
    assert fake_backend.requests[-1].prompts[0][0] == tokenizer.special["<fim_prefix>"]
    await complete(client, prompt="a <fim_middle>", suffix="<|endoftext|><fim_middle> b")
    (ids,) = fake_backend.requests[-1].prompts
    assert [i for i in ids if i in tokenizer.special_ids] == [
        tokenizer.special[name] for name in ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    ]
    assert tokenizer.decode(ids) == "<|endoftext|><fim_middle> ba <fim_middle>"


@pytest.mark.parametrize(("fim_mode", "mode"), [("auto", "spm"), ("psm", "psm"), ("spm", "spm")])
async def test_suffix_is_infilled(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer, fim_mode: str, mode: Any
) -> None:
    await complete(client, prompt="def f(", suffix="\n    return x", fim_mode=fim_mode)
    expected = render(tokenizer, "def f(", Infill(mode, "\n    return x"), Window(240, 16))
    assert fake_backend.requests[0].prompts == [expected]


async def test_a_suffix_asks_for_infilling_an_empty_one_too(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    await complete(client, prompt="x = ")
    await complete(client, prompt="x = ", suffix="")
    await complete(client, prompt="x = ", suffix="", fim_mode="spm")
    await complete(client, prompt="", suffix="x = ")
    assert tokenizer.fim is not None
    ids = tokenizer.encode("x = ")
    assert [request.prompts for request in fake_backend.requests] == [
        [ids],
        [tokenizer.fim.join("spm", ids, [])],
        [tokenizer.fim.join("spm", ids, [])],
        [tokenizer.fim.join("psm", [], ids)],
    ]


async def test_repository_context_comes_first_and_only_as_far_as_it_fits(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    repository = {"name": "acme/shop", "path": "cart.py", "files": [{"path": "tax.py", "content": "RATE = 7\n"}]}
    await complete(client, prompt="import tax\n", repository=repository)
    text = tokenizer.decode(fake_backend.requests[0].prompts[0], skip_special=False)
    document = "<reponame>acme/shop<filename>tax.py\nRATE = 7\n<|endoftext|>"
    assert text == document + "<reponame>acme/shop<filename>cart.py\nimport tax\n"
    repository["files"] = [{"path": "big.py", "content": "x = 1\n" * 2000}]
    await complete(client, prompt="import tax\n", suffix="\nend", repository=repository, max_tokens=10)
    (ids,) = fake_backend.requests[1].prompts
    assert len(ids) <= fake_backend.window - 10
    assert "import tax\n" in tokenizer.decode(ids)
    assert "x = 1\nx = 1\n" in tokenizer.decode(ids)


async def test_truncation_keeps_what_is_near_the_cursor(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    lines = "".join(f"v{i} = {i}\n" for i in range(200))
    room = fake_backend.window - 20
    for body in (
        {"prompt": lines, "truncate_prompt_tokens": -1},
        {"prompt": tokenizer.encode(lines), "truncate_prompt_tokens": -1},
        {"prompt": lines, "truncate_prompt_tokens": 40},
    ):
        await complete(client, **body, max_tokens=20)
        limit = room if body["truncate_prompt_tokens"] == -1 else 40
        (ids,) = fake_backend.requests[-1].prompts
        assert limit / 2 <= len(ids) <= limit
        assert lines.endswith(tokenizer.decode(ids))
    raw = f"<fim_prefix>{lines}<fim_suffix>{lines}<fim_middle>"
    for body in ({"prompt": lines, "suffix": lines, "fim_mode": "psm"}, {"prompt": raw}):
        await complete(client, **body, max_tokens=20, truncate_prompt_tokens=-1)
        (ids,) = fake_backend.requests[-1].prompts
        assert room / 2 <= len(ids) <= room
        before, after = tokenizer.decode(ids, skip_special=False).split("<fim_suffix>")
        assert lines.endswith(before.removeprefix("<fim_prefix>"))
        assert lines.startswith(after.removesuffix("<fim_middle>"))


@pytest.mark.parametrize(
    "template",
    [
        "<fim_prefix>{header}{text}<fim_suffix>{text}<fim_middle>",
        "<fim_prefix><fim_suffix>{text}<fim_middle>{header}{text}",
    ],
    ids=["psm", "spm"],
)
async def test_truncation_keeps_a_raw_prompts_metadata(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer, template: str
) -> None:
    text, header = "".join(f"v{i} = {i}\n" for i in range(200)), "<reponame>acme<filename>a.py\n"
    await complete(client, prompt=template.format(text=text, header=header), max_tokens=20, truncate_prompt_tokens=-1)
    (ids,) = fake_backend.requests[-1].prompts
    assert len(ids) <= fake_backend.window - 20
    rendered = tokenizer.decode(ids, skip_special=False)
    opens_prefix = template.split("{header}")[0].split("{text}")[-1]
    kept = rendered.split(opens_prefix + header)[1].split("<fim_suffix>")[0]
    assert kept
    assert text.endswith(kept)


async def test_echo_puts_the_prompt_before_the_completion(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    answer = await complete(client, prompt=[PROMPT, "x ="], echo=True, n=2, max_tokens=200)
    texts = [choice["text"] for choice in answer["choices"]]
    assert [text.startswith(PROMPT) for text in texts] == [True, True, False, False]
    assert texts[0] == PROMPT + ANSWER
    chunks = await stream(client, prompt=PROMPT, echo=True, max_tokens=200)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == PROMPT + ANSWER


async def test_echo_with_no_tokens_scores_the_prompt(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT)
    body: dict[str, Any] = {"prompt": PROMPT, "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = await complete(client, **body)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    assert len(choice["logprobs"]["tokens"]) == len(ids)
    assert answer["usage"]["completion_tokens"] == 0
    (chunk,) = await stream(client, **body)
    assert chunk["choices"] == [choice]


async def test_a_prompt_is_scored_where_it_is_echoed(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    """Nobody would see it otherwise, and it keeps the cache from being used."""
    for body, wanted in (
        ({"logprobs": 2}, (2, None)),
        ({"logprobs": 2, "echo": True}, (2, 2)),
        ({"echo": True}, (None, None)),
        ({"best_of": 2, "echo": True}, (0, None)),
        ({"best_of": 2, "logprobs": 1}, (1, None)),
    ):
        await complete(client, prompt=PROMPT, max_tokens=1, **body)
        params = fake_backend.requests[-1].params
        assert (params.logprobs, params.prompt_logprobs) == wanted, body


async def test_what_a_completion_asks_of_the_engine(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    asked = {"n": 2, "best_of": 3, "stop": "end", "include_stop_str_in_output": True, "priority": -3, "user": "me"}
    await complete(client, prompt="x", max_tokens=5, seed=4, **asked)
    await complete(client, prompt="x", n=2)
    first, second = fake_backend.requests
    assert (first.n, first.best_of, first.stop, first.include_stop) == (2, 3, ("end",), True)
    assert (first.priority, first.user, first.params.seed, first.params.max_tokens) == (-3, "me", 4, 5)
    assert (second.n, second.best_of, second.stop, second.include_stop) == (2, 2, (), False)
    assert (second.priority, second.user) == (0, None)
    assert first.request_id != second.request_id


async def test_the_file_of_a_repository_and_its_user_make_a_session(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    keys = []
    for user, path in (("me", "a.py"), ("me", "a.py"), ("me", "b.py"), ("you", "a.py"), (None, "a.py"), ("me", None)):
        await complete(client, prompt="x", user=user, repository={"path": path})
        session = fake_backend.requests[-1].session
        keys.append(session and session.key)
    first, again, other_file, other_user, *none = keys
    assert first == again
    assert len({first, other_file, other_user}) == 3
    assert none == [None, None]
    await complete(client, prompt="x", user="me")
    assert fake_backend.requests[-1].session is None


async def test_logprobs_are_aligned_with_the_text(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    answer = await complete(client, prompt=PROMPT, echo=True, logprobs=2, max_tokens=200)
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    ids = tokenizer.encode(PROMPT) + tokenizer.encode(ANSWER)
    assert logprobs["token_logprobs"] == [None] + [FakeBackend.logprob(i) for i in [*ids[1:], tokenizer.eos_id]]
    assert logprobs["top_logprobs"][0] is None
    for token_id, token, offset, top in zip(
        ids, logprobs["tokens"], logprobs["text_offset"], [{}, *logprobs["top_logprobs"][1:]], strict=False
    ):
        raw = tokenizer.token_bytes(token_id)
        if token.startswith("bytes:"):
            assert token == "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        else:
            assert token == raw.decode()
            assert choice["text"][offset:].startswith(token)
        assert not top or len(top) == 2
    assert any(token.startswith("bytes:") for token in logprobs["tokens"]), "no token is part of a character"


async def test_logprobs_0_reports_the_chosen_token_and_1_the_best_one_too(client: httpx.AsyncClient) -> None:
    for alternatives, entries in ((0, 1), (1, 2)):
        answer = await complete(client, prompt=PROMPT, logprobs=alternatives, max_tokens=3)
        logprobs = answer["choices"][0]["logprobs"]
        for token, logprob, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        ):
            assert len(top) == entries
            assert top[token] == logprob


async def test_n_completions_of_each_prompt(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await complete(client, prompt=["a", "b"], n=3, max_tokens=200)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert [choice["text"] for choice in answer["choices"]] == [
        fake_backend.tokenizer.decode(fake_backend.tokens(number)) for number in range(6)
    ]
    chunks = await stream(client, prompt=["a", "b"], n=3, max_tokens=200)
    texts = [""] * 6
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in answer["choices"]]


async def test_best_of_keeps_the_likeliest(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await complete(client, prompt=["a", "b"], n=2, best_of=5, max_tokens=4)
    assert fake_backend.requests[0].params.logprobs == 0
    expected = []
    for prompt in range(2):
        candidates = [fake_backend.tokens(prompt * 5 + i)[:4] for i in range(5)]
        candidates.sort(key=lambda ids: -sum(map(FakeBackend.logprob, ids)))
        expected += [fake_backend.tokenizer.decode(ids) for ids in candidates[:2]]
    assert [choice["text"].rstrip("\ufffd") for choice in answer["choices"]] == [
        text.rstrip("\ufffd") for text in expected
    ]
    assert [choice["logprobs"] for choice in answer["choices"]] == [None] * 4
    assert answer["usage"]["completion_tokens"] == 40


async def test_stop_strings_end_the_text(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    for stop in (["never", " + b"], " + b"):
        (choice,) = (await complete(client, prompt="x", stop=stop, max_tokens=200))["choices"]
        assert choice["text"] == ANSWER[: ANSWER.index(" + b")]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", " + b")
    token = tokenizer.encode(ANSWER)[4]
    (choice,) = (await complete(client, prompt="x", stop_token_ids=[token], max_tokens=200))["choices"]
    assert choice["text"] == tokenizer.decode(tokenizer.encode(ANSWER)[:4])
    assert choice["stop_reason"] == token


async def test_a_stream_says_the_same_as_one_answer(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "logprobs": 3, "max_tokens": 200, "echo": True}
    whole = await complete(client, **body)
    chunks = await stream(client, **body, stream_options={"include_usage": True})
    *chunks, last = chunks
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert {(chunk["id"], chunk["object"]) for chunk in [*chunks, last]} == {(last["id"], "text_completion")}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert len(choices) > 5
    assert all(isinstance(choice["text"], str) for choice in choices)
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    for field, values in whole["choices"][0]["logprobs"].items():
        assert [v for choice in choices if choice["logprobs"] for v in choice["logprobs"][field]] == values


async def test_stream_chunks_are_compact_and_say_nothing_of_usage_unasked(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True, "max_tokens": 5})
    events = response.text.split("\n\n")[:-2]
    for event in events:
        payload = event.removeprefix("data: ")
        assert payload == json.dumps(json.loads(payload), separators=(",", ":"), ensure_ascii=False)
        assert "usage" not in json.loads(payload)


async def test_unknown_fields_are_ignored_and_null_is_the_default(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    fields = ["suffix", "temperature", "top_p", "n", "best_of", "stop", "stream", "seed", "logit_bias", "user"]
    await complete(client, prompt="x", no_such_field={"a": 1}, **dict.fromkeys(fields))
    await complete(client, prompt="x")
    first, second = fake_backend.requests
    assert first.params == second.params
    assert (first.n, first.best_of, first.stop) == (1, 1, ())


async def test_nul_bytes_are_text(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await complete(client, prompt="a\0b", suffix="\0", stop="\0")
    assert answer["choices"][0]["text"]
    assert "\0a\0b" in fake_backend.tokenizer.decode(fake_backend.requests[0].prompts[0])
