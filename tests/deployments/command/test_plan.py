"""What `starcoder plan` computes with, and how it says what comes of it. The plan itself: tests/model/checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytest

from deployments.command import cli, plan, plan_developers
from deployments.command.developers import CORE_S_A_REQUEST, CORE_S_A_TOKEN, Capacity, Habits
from deployments.command.gpus import GPUS
from model.checkpoint.family import FAMILY
from model.checkpoint.memory import MemoryPlan
from model.config import ConfigError, EngineConfig, ModelConfig

GIB = 1 << 30


class Plans:
    """`model.checkpoint.memory.plan`. asked: with which model, memory, bytes a value and draft. configs: of engines.

    windows: how many of the longest length fit; one after the other, the last one for all that come.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *windows: float) -> None:
        self.asked: list[tuple[ModelConfig, int, int, ModelConfig | None]] = []
        self.configs: list[EngineConfig] = []
        self._windows = list(windows)
        monkeypatch.setattr("model.checkpoint.memory.plan", self._plan)

    def _plan(
        self, model: ModelConfig, config: EngineConfig, memory: int, width: int, draft: ModelConfig | None = None
    ) -> MemoryPlan:
        self.asked.append((model, memory, width, draft))
        self.configs.append(config)
        windows = self._windows.pop(0) if len(self._windows) > 1 else self._windows[0]
        return MemoryPlan(
            size=config.tensor_parallel_size,
            parameters=5 * GIB // 2,
            activations=GIB,
            cache=int((windows - 0.5) * GIB),
            cache_tokens=int(windows * 2000),
            block_bytes=12_345 * config.block_size + 1,
            max_model_len=2000,
        )


def answered(capsys: pytest.CaptureFixture[str]) -> tuple[list[list[str]], str]:
    """The rows of a table, cell by cell, without its headings; and what is said below it."""
    rows, _, said = capsys.readouterr().out.partition("\n\n")
    return [[cell for cell in row.split("  ") if cell] for row in rows.splitlines()[1:]], said


def test_every_option_is_computed_with(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plans = Plans(monkeypatch, 1000)
    options = ["--gpu-memory=40GiB", "--model=starcoder", "--draft-model=starcoderbase-1b", "--max-model-len=2000"]
    options += ["--tensor-parallel-size=2", "--tensor-parallel-size=4", "--decode-context-parallel-size=2"]
    options += ["--dtype=float32", "--quantization=int8", "--gpu-memory-utilization=0.75"]
    assert cli.main(["plan", *options]) == 0
    asked = FAMILY["starcoder"], 40 * GIB, 4, FAMILY["starcoderbase-1b"]
    assert plans.asked == [asked, asked]
    assert plans.configs == [
        EngineConfig(
            model="starcoder",
            tensor_parallel_size=size,
            decode_context_parallel_size=2,
            max_model_len=2000,
            gpu_memory_utilization=0.75,
            quantization="int8",
            draft_model="starcoderbase-1b",
        )
        for size in (2, 4)
    ]
    rows, said = answered(capsys)
    numbers = ["2.50 GiB", "12,345", "999.50 GiB", "2,000,000", "1000.0"]
    assert [[cell.strip() for cell in row] for row in rows] == [["starcoder", size, *numbers] for size in "24"]
    assert said == (
        "Of 40 GiB a GPU, 75% is used (float32, linear layers in int8); 1 GiB of it is set aside for CUDA and NCCL.\n"
        "KV tokens: the cache of one engine. Full windows: sequences of the longest length that it holds at once.\n"
        "Each token is kept by one of 2 GPUs: KV bytes a token are one GPU's share.\n"
        "The first GPU has starcoderbase-1b and its cache as well: weights and KV bytes are that GPU's.\n"
    )


def test_of_what_is_not_asked_for_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = Plans(monkeypatch, 1)
    assert cli.main(["plan", "--gpu=l4", "--model=santacoder", "--model=bigcode/starcoderbase"]) == 0
    assert plans.asked[::4] == [(FAMILY[name], GPUS["l4"].memory, 2, None) for name in ("santacoder", "starcoder")]
    assert [config.tensor_parallel_size for config in plans.configs] == [1, 2, 4, 8] * 2
    assert plans.configs[0] == EngineConfig(model="santacoder")
    rows, said = answered(capsys)
    assert [row[0] for row in rows] == ["santacoder"] * 4 + ["bigcode/starcoderbase"] * 4
    assert said == (
        "Of 22.35 GiB a GPU, 90% is used (bfloat16); 1 GiB of it is set aside for CUDA and NCCL.\n"
        "KV tokens: the cache of one engine. Full windows: sequences of the longest length that it holds at once.\n"
    )


def test_those_of_the_family_that_a_draft_model_cannot_draft_for_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For sequences as long as they may get: one whose window is as long can."""
    Plans(monkeypatch, 1)
    monkeypatch.setitem(FAMILY, "longer", FAMILY["starcoder"].model_copy(update={"n_positions": 8193}))
    options = ["--gpu=h100", "--draft-model=tiny_starcoder_py", "--tensor-parallel-size=1"]
    for longest, others in ((None, ["santacoder", "longer"]), ("8192", ["santacoder"])):
        assert cli.main(["plan", *options, *([f"--max-model-len={longest}"] if longest else [])]) == 0
        rows, said = answered(capsys)
        assert [row[0] for row in rows] == [name for name in FAMILY if name not in others]
        told = f"It cannot draft for {', '.join(others)}: another vocabulary, or a longer window."
        assert said.splitlines()[-1] == told


@pytest.mark.parametrize(("windows", "code"), [([0.9, 1, 0.9], 0), ([0.9, 0.9995], 1), ([0.1], 1)])
def test_it_ends_with_0_where_something_fits(
    windows: Sequence[float], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Plans(monkeypatch, *windows)
    sizes = [f"--tensor-parallel-size={size}" for size in (1, 2, 4)]
    assert cli.main(["plan", "--gpu=h100", "--model=starcoder", *sizes]) == code
    rows, _ = answered(capsys)
    fit = [row[-1].strip() != "does not fit" for row in rows]
    assert fit == [number >= 1 for number in [*windows, *windows[-1:] * 2][:3]]
    assert rows[0][4].strip() == f"{max(windows[0] - 0.5, 0):.2f} GiB", "none, rather than less than that"


def test_a_checkpoint_that_is_not_here_is_not_fetched() -> None:
    with pytest.raises(ConfigError, match=r"^model 'owner/name' is neither a directory here nor one of starcoder, s"):
        plan._checkpoint("owner/name")
    assert plan._checkpoint("nano").vocab_size == 8192


HABITS = Habits(prompt_tokens=1000, cached=0.5, answer_tokens=64, within_s=2.0)
PEOPLE = ["--prompt-tokens=1000", "--cached=0.5", "--answer-tokens=64", "--within=2"]


def test_of_people_who_type_everything_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capacities = {"starcoder": Capacity(27, 0.1, "steps"), "santacoder": Capacity(0, 1.0, "steps"), "nano": None}
    asked: list[tuple[object, ...]] = []

    def one_engine(gpu: str, name: str, model: ModelConfig, habits: Habits) -> Capacity | None:
        asked.append((gpu, name, habits))
        return capacities[name]

    monkeypatch.setattr(plan_developers, "one_engine", one_engine)
    models = [f"--model={name}" for name in capacities]
    assert cli.main(["plan", "--gpu=l4", "--developers=1000", *models, *PEOPLE, "--typing=0.25"]) == 0
    assert asked == [("l4", name, HABITS) for name in capacities]
    out = capsys.readouterr().out
    cores = f"{250 * 0.7 * (CORE_S_A_REQUEST + 64 * CORE_S_A_TOKEN):.1f}"
    assert out == (
        "model       typing, an engine  limit                 GPUs  with one to spare  cores around them\n"
        f"starcoder                  27  steps                   10                 11  {cores:>17}\n"
        "santacoder                  -  too slow                 -                  -                  -\n"
        "nano                        -  does not fit one GPU     -                  -                  -\n"
        "\n"
        "One GPU an engine, bfloat16. typing: people who type at the same moment. limit: what keeps an engine from\n"
        "more, its steps' time, its sequences (max_num_seqs), its cache, or the processes in front of it.\n"
        "Each asks 0.7 times a second (simulated keystrokes), with prompts of 1,000 tokens, 50% of them\n"
        "in the cache, for 64 tokens; the last is there within 2 s for 95 of 100, 1.5 times the mean.\n"
        "Measured: steps of starcoder on NVIDIA H100 SXM, 80 GB.\n"
        "Extrapolated by data sheet, never timed: NVIDIA L4, 24 GB.\n"
        "Extrapolated by bytes and operations, never timed: other models; the smaller, the less sure.\n"
    )
    priced = ["--gpu=h100", "--developers=1000", *models[1:], "--usd-per-gpu-hour=3"]
    assert cli.main(["plan", *priced]) == 1
    first, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert first.endswith("  USD an hour  USD a developer and month")
    assert [row.split().count("-") for row in rows] == [6, 6]
    assert len({len(line) for line in (first, *rows)}) == 1, "numbers end at one place"


def test_more_people_who_type_than_one_engine_carries_take_another() -> None:
    options = argparse.Namespace(developers=109, typing=0.5, usd_per_gpu_hour=1.5)
    cells = plan_developers._cells(Capacity(54, 0.1, "cache"), Habits(), options)
    assert cells[:4] == ["54", "cache", "2", "3"], "54.5 people are 55"
    assert cells[5:] == ["4.50", f"{4.5 * 730 / 109:.2f}"]
    options.usd_per_gpu_hour = None
    assert plan_developers._cells(Capacity(55, 0.1, "cache"), Habits(), options)[2:4] == ["1", "2"]


@pytest.mark.parametrize(("asked", "prompt"), [(500, 500), (2016, 2016), (2017, 2016), (3000, 2016)])
def test_a_prompt_is_no_longer_than_a_window_has_room_for(
    asked: int, prompt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the longest answer behind it."""
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(plan_developers, "step_times", lambda *times: times)
    monkeypatch.setattr(plan_developers, "capacity", lambda *of: given.append(of))
    plans = Plans(monkeypatch, 2)
    model = FAMILY["santacoder"]
    plan_developers.one_engine("l4", "santacoder", model, Habits(prompt_tokens=asked, cached=0.5))
    ((times, habits, sequences, tokens),) = given
    assert times == ("l4", model, prompt)
    assert habits == Habits(prompt_tokens=prompt, cached=0.5)
    assert (sequences, tokens) == (EngineConfig(model="santacoder").max_num_seqs, 4000)
    assert plans.asked == [(model, GPUS["l4"].memory, 2, None)]


def test_an_answer_leaves_room_for_a_prompt_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    Plans(monkeypatch, 2)
    assert plan_developers.one_engine("h100", "santacoder", FAMILY["santacoder"], Habits(answer_tokens=2047))
    with pytest.raises(ConfigError, match=r"^--answer-tokens 2048 leaves no room for a prompt in x's window$"):
        plan_developers.one_engine("h100", "x", FAMILY["santacoder"], Habits(answer_tokens=2048))
