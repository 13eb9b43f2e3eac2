"""How many tokens a completion may have, and how much of a prompt is kept for that."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from deployments.api.common import fitting
from deployments.api.common import rendering as module
from deployments.api.common.context import ApiContext
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.rendering import Rendering, render_prompts
from deployments.errors import ContextLengthError, InvalidRequestError
from deployments.protocol import ModelInfo
from model.text.prompts import Infill, Plain
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend

REFUSES, CUTS = Rendering(), Rendering(truncate=-1)


def model_of(window: int) -> ModelInfo:
    return ModelInfo(id="m", max_model_len=window, created=1, block_size=1)


@pytest.fixture
def api(tokenizer: Tokenizer) -> ApiContext:
    return ApiContext(FakeBackend(tokenizer), tokenizer)


@pytest.mark.parametrize(
    ("length", "wanted", "unasked", "most"),
    [
        (40, None, None, 60),
        (99, None, None, 1),
        (40, None, 30, 30),
        (40, None, 70, 60),
        (40, 10, 5, 10),
        (40, 60, None, 60),
        (99, 1, None, 1),
        (40, 0, None, 1),
    ],
)
async def test_what_fits_has_the_room_that_is_left(
    api: ApiContext, length: int, wanted: int | None, unasked: int | None, most: int
) -> None:
    for rendering in (REFUSES, CUTS) if length == 40 and wanted != 60 else (REFUSES,):
        fitted = await fit_prompts(api, model_of(100), [[40] * length], rendering, wanted, unasked=unasked)
        assert (fitted.prompts, fitted.max_tokens) == ([[40] * length], most)


@pytest.mark.parametrize(("length", "wanted"), [(100, None), (100, 1), (41, 60), (1, 100), (1, 101), (100, 0)])
async def test_what_does_not_fit_is_refused(api: ApiContext, length: int, wanted: int | None) -> None:
    with pytest.raises(ContextLengthError):
        await fit_prompts(api, model_of(100), [[40] * length], REFUSES, wanted)


@pytest.mark.parametrize(
    ("window", "wanted", "room"),
    [
        (100, None, 25),  # a quarter of a small window
        (1024, None, 256),
        (2000, None, 256),
        (100, 20, 20),
        (100, 50, 50),
        (100, 90, 50),  # half of it, whatever is wanted
        (101, 90, 50),
    ],
)
async def test_what_is_too_long_is_cut_for_it(
    api: ApiContext, monkeypatch: pytest.MonkeyPatch, window: int, wanted: int | None, room: int
) -> None:
    asked = []

    async def noting(*arguments: Any) -> list[list[int]]:
        asked.append(arguments[-1])
        return await render_prompts(*arguments)

    monkeypatch.setattr(fitting, "render_prompts", noting)
    ids = [40 + i % 7 for i in range(3000)]
    fitted = await fit_prompts(api, model_of(window), [ids], CUTS, wanted)
    (kept,) = fitted.prompts
    assert asked == [room]
    assert kept == ids[-len(kept) :]
    left = window - len(kept)
    assert fitted.max_tokens == (left if wanted is None else min(wanted, left))
    assert left >= room


async def test_the_longest_prompt_says_what_is_left(api: ApiContext) -> None:
    fitted = await fit_prompts(api, model_of(100), [[40] * 10, [40] * 70, [40]], REFUSES, None)
    assert fitted.max_tokens == 30


async def test_a_cut_to_so_many_tokens_is_one_to_the_window_too(api: ApiContext) -> None:
    ids = [40 + i % 7 for i in range(300)]
    for truncate, kept in ((5, 5), (90, 90), (95, 90), (-1, 90)):
        assert await render_prompts(api, model_of(100), [ids], Rendering(truncate=truncate), 10) == [ids[-kept:]]
    assert await render_prompts(api, model_of(100), [ids[:99]], Rendering(truncate=200), 0) == [ids[:99]]


@pytest.mark.parametrize(
    ("prompt", "form", "max_tokens", "param", "words"),
    [
        ("", REFUSES.form, 1, "prompt", "`prompt`: is empty; it must hold"),
        ([], REFUSES.form, 1, "prompt", "`prompt`: is empty; it must hold"),
        ([1], Infill("psm", ""), 1, "prompt", "need the prompt as text, not ids"),
        ([1], Plain(None), 1, "prompt", "need the prompt as text, not ids"),
        ([1], REFUSES.form, 100, "max_tokens", r"length is 100 tokens; max_tokens \(100\) leaves no room"),
        ([1] * 100, REFUSES.form, 0, "prompt", "needs 100 for the prompt and 1 for"),
        ([1] * 91, REFUSES.form, 10, "prompt", "needs 91 for the prompt and 10 for"),
        ("x " * 3000, REFUSES.form, 7, "prompt", r"needs at least \d+ for the prompt and 7 for"),
        ("x", Infill("psm", "y " * 3000), 7, "prompt", r"needs at least \d+ for the prompt and 7 for"),
        ("x", Infill("psm", "y"), 98, "prompt", r"needs 5 for the prompt and 98 for"),
    ],
)
async def test_a_refusal_says_what_is_wrong(
    api: ApiContext, prompt: str | list[int], form: Infill | Plain, max_tokens: int, param: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words) as refused:
        await render_prompts(api, model_of(100), [prompt], Rendering(form), max_tokens)  # type: ignore[list-item]
    assert refused.value.param == param
    too_long = isinstance(refused.value, ContextLengthError)
    assert refused.value.code == ("context_length_exceeded" if too_long else "invalid_value")


async def test_a_window_without_room_for_a_prompt_is_told_by_its_field(api: ApiContext) -> None:
    with pytest.raises(InvalidRequestError, match="a window of 0 tokens has no room") as refused:
        await render_prompts(api, model_of(100), [[1]], Rendering(truncate=0), 1)
    assert refused.value.param == "prompt"
    with pytest.raises(InvalidRequestError, match="a window of 2 tokens") as refused:
        await render_prompts(api, model_of(100), ["x"], Rendering(Infill("psm", "y"), 2), 1)
    assert refused.value.param == "suffix"


@pytest.mark.parametrize(("texts", "suffix", "on_loop"), [(["a" * 10], "b" * 10, True), (["a" * 11], "b" * 10, False)])
async def test_long_text_is_tokenized_off_the_event_loop(
    api: ApiContext, monkeypatch: pytest.MonkeyPatch, texts: list[str], suffix: str, on_loop: bool
) -> None:
    monkeypatch.setattr(module, "_THREAD_CHARS", 20)
    threads, render_all = [], module._render_all

    def noting(*args: object) -> list[list[int]]:
        threads.append(threading.current_thread())
        return render_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_render_all", noting)
    await render_prompts(api, model_of(100), texts, Rendering(Infill("psm", suffix)), 1)
    assert [thread is threading.current_thread() for thread in threads] == [on_loop]
