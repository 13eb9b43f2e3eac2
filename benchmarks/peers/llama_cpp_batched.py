"""llama.cpp through its C API: prompts in batches of 2,048 tokens, then all sequences one token at a time together.

That is what its server does, without the server. Each sequence has its own stream of the cache (`kv_unified` off).
The checkpoint is converted to GGUF once, matrices in bfloat16, as `convert_hf_to_gguf.py` does it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_BATCH = 2048
STREAM = 256
"""A stream's length is a multiple of this."""

_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """`transformer.h.3.attn.c_attn.weight` is `blk.3.attn_qkv.weight`."""
    match name.removeprefix("transformer.").split("."):
        case ["wte", "weight"]:
            return "token_embd.weight"
        case ["wpe", "weight"]:
            return "position_embd.weight"
        case ["ln_f", part]:
            return f"output_norm.{part}"
        case ["h", layer, *module, part]:
            return f"blk.{layer}.{_NAMES['.'.join(module)]}.{part}"
    raise ValueError(f"{name} is no tensor of GPTBigCode with a tied head")


def convert(checkpoint: Path, target: Path) -> None:
    """Write a bfloat16 checkpoint of one safetensors file as GGUF, without a vocabulary of texts."""
    import gguf
    import numpy as np

    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(str(target), "starcoder")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_head_count_kv(1)
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    data = np.memmap(checkpoint / "model.safetensors", dtype=np.uint8, mode="r")
    (size,) = struct.unpack("<Q", data[:8].tobytes())
    for name, entry in json.loads(data[8 : 8 + size].tobytes()).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise ValueError(f"{name} is {entry['dtype']}, not BF16")
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        raw = np.frombuffer(data[first:last].tobytes(), dtype=np.uint16).reshape(entry["shape"])
        new = gguf_name(name)
        if raw.ndim == 1 or new.startswith("position_embd"):
            writer.add_tensor(new, (raw.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(new, raw.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(spec: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    import llama_cpp

    path = Path(spec["scratch"]) / "model.gguf"
    if not path.is_file():
        partial = path.with_suffix(".part")
        convert(Path(spec["checkpoint"]), partial)
        partial.rename(path)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError("llama.cpp does not load the converted checkpoint")
    runs: dict[int, Sequences] = {}

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        if len(prompts) not in runs:
            for old in runs.values():
                old.close()
            runs.clear()
            runs[len(prompts)] = Sequences(llama_cpp, model, len(prompts), spec)
        return runs[len(prompts)].generate(prompts, max_tokens)

    return generate


class Sequences:
    """A context for `count` sequences at once."""

    def __init__(self, api: Any, model: Any, count: int, spec: dict[str, Any]) -> None:
        params = api.llama_context_default_params()
        params.n_ctx = count * (-(-spec["max_len"] // STREAM) * STREAM)
        params.n_batch = N_BATCH
        params.n_seq_max = count
        params.n_threads = params.n_threads_batch = spec["threads"]
        self.api = api
        self.context = api.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self.batch = api.llama_batch_init(N_BATCH, 0, 1)

    def close(self) -> None:
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.context)

    def generate(self, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        answers: list[list[int]] = [[] for _ in prompts]
        rows = [
            (token, position, number, position == len(prompt) - 1)
            for number, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for first in range(0, len(rows), N_BATCH):
            self._decode(rows[first : first + N_BATCH], answers)
        for step in range(max_tokens - 1):
            following = zip(prompts, answers, strict=True)
            self._decode([(a[-1], len(p) + step, n, True) for n, (p, a) in enumerate(following)], answers)
        return answers

    def _decode(self, rows: list[tuple[int, int, int, bool]], answers: list[list[int]]) -> None:
        """rows: token, position, sequence, whether its logits are wanted; those sequences get their next token."""
        import numpy as np

        batch = self.batch
        batch.n_tokens = len(rows)
        for row, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = wanted
        if code := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returns {code}")
        for row, (_, _, sequence, wanted) in enumerate(rows):
            if wanted:
                logits = self.api.llama_get_logits_ith(self.context, row)
                answers[sequence].append(int(np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax()))
