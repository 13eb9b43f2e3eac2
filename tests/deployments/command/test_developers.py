"""How many people who type an engine carries: the formula, what was measured, and the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.server.typing_model import TypingModel, keystrokes, pauses
from deployments.command import gpus
from deployments.command.cli import main
from deployments.command.developers import Habits, capacity
from deployments.command.gpus import GPUS, StepTimes, step_times
from deployments.command.plan_developers import one_engine
from model.checkpoint.family import FAMILY
from model.config import ConfigError

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results"
STARCODER = FAMILY["starcoder"]
MANY = 10**9


def measured(name: str) -> dict[str, float]:
    details = json.loads((RESULTS / "gpu-h100.json").read_text())["details"]
    [metrics] = [one["metrics"] for one in details if one["name"] == name]
    return metrics


def answers(times: StepTimes, developers: int, habits: Habits, requests: int = 4000) -> list[float]:
    """Steps one after the other, whose requests come at random; seconds of each answer, sorted."""
    generator = random.Random(1)
    arrives = [generator.expovariate(developers * habits.requests_per_s) for _ in range(requests)]
    for i in range(1, requests):
        arrives[i] += arrives[i - 1]
    now, following, running, found = 0.0, 0, [], []  # running: [arrived, tokens left]
    while len(found) < requests:
        if not running and following < requests:
            now = max(now, arrives[following])
        new = 0
        while following < requests and arrives[following] <= now:
            running.append([arrives[following], habits.answer_tokens])
            following, new = following + 1, new + 1
        now += times.seconds(len(running), new * habits.new_tokens)
        for one in running:
            one[1] -= 1
        found += [now - arrived for arrived, left in running if left == 0]
        running = [one for one in running if one[1] > 0]
    return sorted(found)


@pytest.mark.parametrize("gpu", ["h100", "h200"])
def test_as_many_as_planned_are_answered_in_time(gpu: str) -> None:
    habits = Habits()
    times = step_times(gpu, STARCODER, habits.prompt_tokens)
    found = capacity(times, habits, 64, MANY)
    assert found.limit == "steps"
    seconds = answers(times, found.developers, habits)
    assert sum(seconds) / len(seconds) == pytest.approx(found.step_s * (habits.answer_tokens + 0.5), rel=0.1)
    assert seconds[int(0.95 * len(seconds))] < habits.within_s


def test_twice_as_many_are_not() -> None:
    habits = Habits()
    times = step_times("h100", STARCODER, habits.prompt_tokens)
    developers = capacity(times, habits, 64, MANY).developers
    seconds = answers(times, 2 * developers, habits)
    assert seconds[int(0.95 * len(seconds))] > habits.within_s


times_of_steps = st.builds(
    StepTimes, base=st.floats(1e-4, 0.1), sequence=st.floats(1e-6, 1e-3), token=st.floats(1e-6, 1e-3)
)
usual_habits = st.builds(
    Habits,
    requests_per_s=st.floats(0.05, 2),
    prompt_tokens=st.integers(1, 8000),
    cached=st.floats(0, 1),
    answer_tokens=st.integers(1, 512),
    within_s=st.floats(0.05, 30),
)


@settings(deadline=None)
@given(times_of_steps, usual_habits, st.integers(1, 512), st.integers(1, 10**7))
def test_a_steady_state_within_every_limit(
    times: StepTimes, habits: Habits, max_num_seqs: int, cache_tokens: int
) -> None:
    found = capacity(times, habits, max_num_seqs, cache_tokens)
    if not found.developers:
        return
    requests = found.developers * habits.requests_per_s
    sequences = requests * found.step_s * habits.answer_tokens
    assert times.seconds(sequences, requests * found.step_s * habits.new_tokens) == pytest.approx(found.step_s)
    assert found.step_s * (habits.answer_tokens + 0.5) < habits.within_s
    assert sequences <= max_num_seqs * (1 + 1e-9)
    assert found.developers * habits.prompt_tokens <= cache_tokens
    assert requests * habits.core_s <= 1 + 1e-9
    more = capacity(times, Habits(**{**vars(habits), "within_s": habits.within_s * 2}), max_num_seqs, cache_tokens)
    assert more.developers >= found.developers
    assert found.engines(found.developers) == 1
    assert found.engines(found.developers + 1) == 2


def test_what_counts_as_measured_was_measured() -> None:
    decode = measured(f"decode, batch 1, {gpus.CONTEXT} before")
    assert pytest.approx(decode["ms_per_step"] / 1000, rel=1e-4) == gpus.DECODE_1_S
    assert pytest.approx(decode["gbytes_per_s"] * 1e9, rel=1e-3) == gpus.BANDWIDTH_REACHED
    decode = measured(f"decode, batch 256, {gpus.CONTEXT} before")
    assert pytest.approx(decode["ms_per_step"] / 1000, rel=1e-4) == gpus.DECODE_256_S
    assert pytest.approx(measured("prefill of 2,048")["ms"] / 1000, rel=1e-4) == gpus.PROMPT_2048_S
    facts = json.loads((RESULTS / "gpu-h100.json").read_text())["settings"]
    assert GPUS["h100"].memory == pytest.approx(facts["memory_gb"] * 1e9)


def test_steps_in_between_take_no_longer_than_said() -> None:
    times = step_times("h100", STARCODER, gpus.CONTEXT)
    for name, sequences, tokens in (
        ("decode, batch 8, 512 before", 8, 0),
        ("decode, batch 64, 512 before", 64, 0),
    ):
        assert times.seconds(sequences, tokens) == pytest.approx(measured(name)["ms_per_step"] / 1000, rel=0.02)
    for decodes in (1, 64):
        for chunk in (64, 256):
            step = measured(f"a chunk of {chunk} beside {decodes} decodes")["median_step_ms"] / 1000
            assert 0.98 * step < times.seconds(decodes, chunk) < 1.25 * step


def test_they_ask_as_often_as_the_model_of_keystrokes_does() -> None:
    model, line = TypingModel(), "    total = add(values, carry)\n"
    sessions = [keystrokes(line * 40, model, seed) for seed in range(20)]
    asked = sum(len(pauses(session, model.debounce)) for session in sessions)
    assert asked / sum(session[-1].at for session in sessions) == pytest.approx(Habits().requests_per_s, rel=0.05)


def test_their_requests_are_those_that_were_measured() -> None:
    cells = json.loads((RESULTS / "editors.json").read_text())["details"]
    cells = [one for one in cells if one["model"] == "164m"]
    [cell] = [one for one in cells if one["editors"] == 4]
    habits = Habits()
    assert cell["percent_prompt_cached_server"] / 100 == pytest.approx(habits.cached, abs=0.01)
    lengths = [one["prompt_tokens_of_finished"] / one["finished"] for one in cells]
    assert min(lengths) < habits.prompt_tokens < max(lengths)
    rules = json.loads((RESULTS / "stop-rules.json").read_text())
    tokens = [value for name, value in rules["metrics"].items() if name.endswith("/auto/tokens")]
    per_answer = [count / rules["settings"]["cases"] for count in tokens]
    assert min(per_answer) < habits.answer_tokens < max(per_answer)


def test_a_smaller_model_and_a_faster_gpu_carry_more() -> None:
    habits = Habits()

    def carried(gpu: str, model: str) -> int:
        found = one_engine(gpu, model, FAMILY[model], habits)
        assert found is not None
        return found.developers

    slow = carried("a100", "starcoder")
    assert slow < carried("h100", "starcoder") < carried("h200", "starcoder")
    assert slow < carried("a100", "starcoderbase-7b")
    assert one_engine("l4", "starcoder", STARCODER, habits) is None
    with pytest.raises(ConfigError, match="no room for a prompt"):
        one_engine("l4", "santacoder", FAMILY["santacoder"], Habits(answer_tokens=2048))


def test_the_command_says_how_many_and_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--developers", "100", "--gpu", "h100", "--model", "starcoder", "--usd-per-gpu-hour", "2"]
    assert main(["plan", *arguments]) == 0
    head, row, *said = capsys.readouterr().out.splitlines()
    assert "typing, an engine" in head
    assert row.split() == ["starcoder", "76", "steps", "2", "3", "0.6", "6.00", "43.80"]
    assert "Measured: steps of starcoder on NVIDIA H100 SXM, 80 GB." in said
    assert not any("Extrapolated" in line for line in said)

    assert main(["plan", *arguments, "--typing", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[3] == "1"


def test_the_command_says_what_nobody_has_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--developers", "5", "--gpu", "l4", "--model", "starcoder"]) == 1
    assert "does not fit one GPU" in capsys.readouterr().out
    assert main(["plan", "--developers", "5", "--gpu", "l40s", "--model", "starcoder"]) == 1
    out = capsys.readouterr().out
    assert "too slow" in out
    assert "Extrapolated by data sheet, never timed: NVIDIA L40S, 48 GB." in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu-memory", "80GB"], "needs --gpu"),
        (["--gpu", "h100", "--quantization", "int8"], "bfloat16 weights on one GPU"),
        (["--gpu", "h100", "--tensor-parallel-size", "2"], "bfloat16 weights on one GPU"),
        (["--gpu", "h100", "--draft-model", "starcoderbase-1b"], "without a draft model"),
        (["--gpu", "h100", "--within", "0"], "--within 0 is not above 0"),
    ],
)
def test_what_was_never_timed_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--developers", "50", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--usd-per-gpu-hour", "nan"), ("--usd-per-gpu-hour", "-3"), ("--within", "inf")]
)
def test_what_is_no_number_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "--developers", "50", "--gpu", "h100", f"{option}={value}"])
    assert f"argument {option}: {value!r} is no number of at least 0" in capsys.readouterr().err


def test_the_help_says_that_people_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "--developers N " in capsys.readouterr().out
