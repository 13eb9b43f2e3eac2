"""GPTBigCode (StarCoder, arXiv:2305.06161): GPT-2's block with multi-query attention and learned positions.

What a rank has computed of a layer's output is added up over the ranks by the norm behind it, which reads it anyway.

Module and parameter names are those of the checkpoint, so that loading is a walk over `named_parameters`.
"""

from __future__ import annotations

import torch
from torch import nn

from model.config import ModelConfig
from model.network.attention import AttentionPlan
from model.network.layers import Form, Linear, VocabParallelEmbedding, column_parallel, linear, row_parallel
from model.network.operations import Operations, TorchOperations
from model.network.parallel import TensorParallel


class Attention(nn.Module):
    """Queries split by heads over the ranks. The one key/value head of a multi-query model lives on every rank."""

    def __init__(self, config: ModelConfig, group: TensorParallel, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.heads = config.n_head // group.size
        self.kv_heads = 1 if config.multi_query else self.heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5 if config.scale_attn_weights else 1.0
        self.c_attn = linear(config.n_embd, (self.heads + 2 * self.kv_heads) * config.head_dim)
        self.c_proj = row_parallel(config.n_embd, config.n_embd, group)

    def forward(
        self, x: torch.Tensor, cache: torch.Tensor, plan: AttentionPlan, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        qkv = self.operations.linear(self.c_attn, x).view(-1, self.heads + 2 * self.kv_heads, self.head_dim)
        self.operations.write(cache, qkv, plan.slots)
        attended = plan.attend(qkv[:, : self.heads], cache, self.scale).flatten(1)
        return self.operations.linear(self.c_proj, attended if rows is None else attended[rows])


class MLP(nn.Module):
    def __init__(self, config: ModelConfig, group: TensorParallel, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.c_fc = column_parallel(config.n_embd, config.n_inner, group)
        self.c_proj = row_parallel(config.n_inner, config.n_embd, group)
        self.activation = config.activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.operations.activated(self.c_fc, x, self.activation)
        return self.operations.linear(self.c_proj, inner)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, group: TensorParallel, operations: Operations) -> None:
        super().__init__()
        self.group, self.operations = group, operations
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, group, operations)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config, group, operations)

    def forward(
        self,
        x: torch.Tensor,
        more: torch.Tensor,
        cache: torch.Tensor,
        plan: AttentionPlan,
        rows: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x, and this rank's part of what is to be added to it, for the next norm to do so -> the same behind this
        block.

        Writes every row's keys and values, and computes what comes after them for `rows` alone, if given.
        """
        x, normed = self.operations.reduce_add_norm(x, more, self.ln_1, self.group)
        more = self.attn(normed, cache, plan, rows)
        x = x if rows is None else x[rows]
        x, normed = self.operations.reduce_add_norm(x, more, self.ln_2, self.group)
        return x, self.mlp(normed)


class GPTBigCode(nn.Module):
    """One rank's share of the network. Construct it `without_storage`, then `place` the weights."""

    def __init__(self, config: ModelConfig, group: TensorParallel, operations: Operations | None = None) -> None:
        super().__init__()
        self.config = config
        self.group = group
        self.operations = operations = operations or TorchOperations()
        self.wte = VocabParallelEmbedding(config.vocab_size, config.n_embd, group)
        # `nn.Embedding(...)` would draw its weights. For those without storage PyTorch loads its compiler: 1.5 s.
        self.wpe = nn.Embedding.from_pretrained(torch.empty(config.n_positions, config.n_embd))
        self.h = nn.ModuleList(Block(config, group, operations) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.lm_head = linear(config.n_embd, self.wte.rows, bias=False)

    @classmethod
    def without_storage(
        cls, config: ModelConfig, group: TensorParallel, operations: Operations | None = None
    ) -> GPTBigCode:
        """Names and shapes alone."""
        with torch.device("meta"):
            return cls(config, group, operations)

    def place(self, name: str, value: torch.Tensor, form: Form = Linear) -> None:
        """Hold this rank's part of a parameter; of a linear layer's weight, the layer that `form` makes."""
        path, _, kind = name.rpartition(".")
        module = self.get_submodule(path)
        if kind == "weight" and isinstance(module, Linear):
            self.set_submodule(path, form(value, module.bias))
        else:
            setattr(module, kind, nn.Parameter(value, requires_grad=False))

    def replace_linears(self, form: Form) -> None:
        """Put what `form` makes of each loaded linear layer in its place, which is freed before the next one's turn."""
        for path in [path for path, module in self.named_modules() if isinstance(module, Linear)]:
            self._replace_linear(path, form)

    def _replace_linear(self, path: str, form: Form) -> None:
        layer = self.get_submodule(path)
        assert isinstance(layer, Linear)
        self.set_submodule(path, form(layer.weight, layer.bias))

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cache: torch.Tensor,
        plan: AttentionPlan,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """tokens, positions [T]; cache [layers, 2, blocks, block_size, kv_heads, head_dim] -> [R, n_embd]

        What `logits` takes: hidden states behind the last norm. rows [R]: whose logits are wanted. The last block does
        no more for the others than their keys and values: of a prompt only the last token goes on. None: all, in order.
        """
        x, more = self.wpe(positions), self.wte(tokens)
        last = len(self.h) - 1
        for n, (block, layer_cache) in enumerate(zip(self.h, cache, strict=True)):
            x, more = block(x, more, layer_cache, plan, rows if n == last else None)
        return self.operations.reduce_add_norm(x, more, self.ln_f, self.group)[1]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """hidden [R, n_embd], normalised -> float32 [R, vocab_size] on rank 0, None on the others."""
        gathered = self.group.gather_last_dim(self.operations.linear(self.lm_head, hidden))
        return None if gathered is None else gathered[:, : self.config.vocab_size].float()

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the parameters as they are held; those that share memory, as a tied head does, count once."""
        return sum({p.data_ptr(): p.numel() * p.element_size() for p in self.parameters()}.values())
