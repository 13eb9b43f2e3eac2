"""What transformers is asked for is what it would say of each text alone, wherever its weights lie."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deployments.command.verify import reference, rounding
from deployments.command.verify.memory import below_limits
from deployments.command.verify.readings import Pass, Place, Reading, Rounding, Text
from deployments.command.verify.rounding import round_products
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.verified import ids, silent

pytestmark = pytest.mark.usefixtures("only_new_garbage")

TEXTS = [Text(ids(count, count), first) for count, first in ((40, 1), (7, 6), (2, 1), (100, 90), (39, 20))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("reference"), random_model(), max_shard_size="100KB")


def read(checkpoint: Path, scratch: Path, memory: int = 1 << 30, rounding: Rounding | None = None) -> list[Reading]:
    passes = [Pass("exact", "float64", rounding), Pass("served", "float32", rounding)]
    return reference.read(checkpoint, TEXTS, passes, Place(False, memory, scratch), silent)


def expected(model: nn.Module, text: Text) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(torch.tensor([text.tokens])).logits[0]
    return logits[text.first - 1 : -1].double().log_softmax(-1)


def check(readings: list[Reading], model: nn.Module) -> None:
    assert [reading.text for reading in readings] == TEXTS
    for reading, text in zip(readings, TEXTS, strict=True):
        want = expected(model, text).numpy()
        exact, served = reading.passes["exact"], reading.passes["served"]
        np.testing.assert_array_equal(reading.ids, np.argsort(-want, axis=1)[:, : reference.LIKELIEST])
        np.testing.assert_array_equal(exact.likeliest, want.argmax(axis=1))
        np.testing.assert_allclose(exact.logprobs, np.take_along_axis(want, reading.ids, axis=1), atol=1e-9)
        np.testing.assert_allclose(exact.own, want[range(len(want)), text.tokens[text.first :]], atol=1e-9)
        np.testing.assert_allclose(served.logprobs, exact.logprobs, atol=1e-4)
        assert np.abs(served.logprobs - exact.logprobs).max() > 1e-9


def test_texts_of_all_lengths_together(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BATCH_TOKENS", 120)
    monkeypatch.setattr(reference, "_HEAD_ROWS", 7)
    check(read(checkpoint, tmp_path), random_model().double())


def test_weights_that_have_no_room_are_fetched_from_disk(checkpoint: Path, tmp_path: Path) -> None:
    model = reference.load(checkpoint, Pass("exact", "float64"), Place(False, 450_000, tmp_path))
    assert {"cpu", "disk"} <= set(model.hf_device_map.values())
    check(read(checkpoint, tmp_path, 450_000), random_model().double())


@pytest.mark.parametrize("memory", [1 << 30, 450_000], ids=["in memory", "on disk"])
def test_eight_bits_are_what_pytorchs_own_rounding_makes(checkpoint: Path, tmp_path: Path, memory: int) -> None:
    """By its fake quantization; the embedding, which the head shares, is not rounded."""
    model = random_model().double()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = fake_quantized(module.weight.data)
            module.register_forward_pre_hook(lambda _, args: (fake_quantized(args[0]),))
    for reading, text in zip(read(checkpoint, tmp_path, memory, Rounding("int8", inputs=True)), TEXTS, strict=True):
        want = np.take_along_axis(expected(model, text).numpy(), reading.ids, axis=1)
        # an input between two steps may go either way, in a few places
        assert np.median(np.abs(reading.passes["exact"].logprobs - want)) < 1e-3


def fake_quantized(values: torch.Tensor) -> torch.Tensor:
    rows = values.float().reshape(-1, values.shape[-1])
    scales = (rows.abs().amax(dim=1) / 127).clamp_min(1e-30)
    zeros = torch.zeros(len(rows), dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(rows, scales, zeros, 0, -127, 127)
    return rounded.view(values.shape).to(values.dtype)


def test_rounded_once_is_rounded(checkpoint: Path) -> None:
    model = random_model()
    embedding = model.transformer.wte.weight.clone()
    tokens = torch.tensor([TEXTS[0].tokens])
    plain = model(tokens).logits
    round_products(model, Rounding("fp8", inputs=False), "bfloat16")
    first, second = model(tokens).logits, model(tokens).logits
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)
    assert torch.equal(model.transformer.wte.weight, embedding)
    rounded = model.lm_head(torch.eye(embedding.shape[1])).T
    steps = rounded / (rounded.abs().amax(dim=1, keepdim=True) / 448)
    torch.testing.assert_close(steps, steps.to(torch.float8_e4m3fn).float(), rtol=1e-3, atol=1e-3)
    assert not torch.equal(rounded, embedding)


def test_a_large_weight_is_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, whole = nn.Linear(8, 30), nn.Linear(8, 30)
    whole.load_state_dict(layer.state_dict())
    x = torch.randn(3, 8)
    round_products(nn.Sequential(whole), Rounding("int8", inputs=False), "float32")
    wanted = whole(x)
    monkeypatch.setattr(rounding, "_ROWS_BYTES", 7 * 8 * 4)
    round_products(nn.Sequential(layer), Rounding("int8", inputs=False), "float32")
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("numbers", [1 << 30, 100_000], ids=["in memory", "on disk"])
def test_what_is_rounded_is_held_while_it_is_multiplied(
    checkpoint: Path, tmp_path: Path, numbers: int, dtype: str
) -> None:
    """The whole model would be wider than what was placed, and nothing would be left on disk."""
    one = Pass("served", dtype, Rounding("int8", inputs=True), dtype)
    memory = numbers * getattr(torch, dtype).itemsize
    model = reference.load(checkpoint, one, Place(False, memory, tmp_path))
    placed = set(getattr(model, "hf_device_map", {"": "cpu"}).values())  # none where there is one place alone
    assert placed == ({"cpu"} if numbers == 1 << 30 else {"cpu", "disk"})
    before = held_bytes()
    reference.read_all(model, TEXTS, None)
    assert held_bytes() <= before + 10_000  # the readings


def held_bytes() -> int:
    """Of all tensors that there are."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor) and not found.is_meta]
    storages = {storage.data_ptr(): storage.nbytes() for storage in (found.untyped_storage() for found in tensors)}
    return sum(storages.values())


def test_main_memory_is_what_the_container_leaves(tmp_path: Path) -> None:
    """The tightest of all groups around this process."""
    groups, own = tmp_path / "groups", tmp_path / "own"
    own.write_text("0::/pods/one\n")
    assert below_limits(10_000, groups, own) == 10_000, "no limit that can be read"
    write_group(groups / "pods/one", "memory.max", "max", "memory.current", 10, "inactive_file 1")
    assert below_limits(10_000, groups, own) == 10_000
    write_group(groups / "pods", "memory.max", 5000, "memory.current", 2000, "anon 7\ninactive_file 500")
    write_group(groups, "memory.max", 9000, "memory.current", 2000, "inactive_file 0")
    assert below_limits(10_000, groups, own) == 3500
    own.write_text("0::/of/the/machine\n")
    assert below_limits(10_000, groups, own) == 7000
    own.write_text("5:cpu:/x\n4:hugetlb,memory:/x\n")
    write_group(groups / "memory", "memory.limit_in_bytes", 900, "memory.usage_in_bytes", 990, "total_inactive_file 40")
    assert below_limits(10_000, groups, own) == 0
    assert below_limits(10_000, groups, tmp_path / "nowhere") == 10_000


def write_group(path: Path, limit: str, most: object, used: str, taken: int, stat: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in ((limit, most), (used, taken), ("memory.stat", stat)):
        (path / name).write_text(f"{text}\n")


def test_ids_are_numbers_where_the_weights_are_on_disk() -> None:
    """accelerate leaves them on the device `meta`, which keeps none, until a layer asks."""
    seen: list[list[list[int]]] = []

    class Transformer:
        wte = SimpleNamespace(weight=torch.empty(1, device="meta"))

        def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            seen.append(input_ids.tolist())
            return SimpleNamespace(last_hidden_state=input_ids.unsqueeze(-1).float())

    texts = [Text((5, 6, 7), 1), Text((1, 2, 3, 4), 3)]
    hidden = reference._hidden(SimpleNamespace(transformer=Transformer()), texts)
    assert seen == [[[5, 6, 0], [1, 2, 3]]]
    assert hidden.tolist() == [[5.0], [6.0], [3.0]]
