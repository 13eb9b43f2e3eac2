"""The tensor-parallel group: who I am, the collectives the network needs, and rank 0's wire to the others.

Collectives (NCCL on GPU; on CPU, and where ranks share a GPU, which NCCL refuses, a star of sockets for small tensors,
gloo for large ones) run where all ranks are known to come by: while they agree on what to load, in a forward pass, and
when drawn tokens are broadcast behind it. A rank that raises in between leaves the others waiting, so it has to end.
Between steps the other ranks wait on a socket from rank 0, because a rank that idles in a collective is killed by its
watchdog.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from model.network.meeting import meet
from model.network.star import Star, is_small
from model.network.stripes import Stripe

JOIN_TIMEOUT = timedelta(minutes=10)

logger = logging.getLogger(__name__)


def gpu_uuid(device: torch.device) -> str:
    """What tells this GPU from all others: ranks may number the same one differently."""
    return str(torch.cuda.get_device_properties(device).uuid)


class TensorParallel:
    """One rank's view of the group. With `size == 1` nothing is opened and every collective is the identity."""

    def __init__(self, rank: int = 0, size: int = 1, stripes: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.stripe = Stripe(stripes, rank % stripes)
        """What this rank keeps of the cache that it shares with its neighbours: ranks n * stripes and those behind."""
        self._neighbours: dist.ProcessGroup | None = None
        self._star: Star | None = None
        self._neighbours_star: Star | None = None
        self._store: dist.TCPStore | None = None
        self._wires: list[Connection] = []
        self.gpus: list[str] = []
        """Each rank's, by `gpu_uuid`, known on every rank once they have joined; none on CPUs."""
        self.shares_gpu = False
        """Whether two ranks have one GPU between them, known on every rank once they have joined. Their collectives go
        through the CPU then, so that no CUDA graph can hold them."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def listen(self) -> str:
        """Rank 0: bind a free loopback port for the rendezvous. Returns "host:port".

        Loopback suffices: the ranks of one replica are packed on one node.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:  # the store itself would listen on every interface
            port: int = listener.getsockname()[1]
            self._store = dist.TCPStore(
                "127.0.0.1",
                port,
                is_master=True,
                wait_for_workers=False,
                timeout=JOIN_TIMEOUT,
                master_listen_fd=listener.detach(),
            )
        return f"127.0.0.1:{port}"

    def join(self, address: str, device: torch.device) -> None:
        """Meet the other ranks at `address`, open the collectives and the wire. Every rank calls it at once."""
        if self.size == 1:
            return
        if self._store is None:
            host, port = address.rsplit(":", 1)
            self._store = dist.TCPStore(host, int(port), is_master=False, timeout=JOIN_TIMEOUT)
        if device.type == "cuda":
            self.shares_gpu = self._find_shared_gpu(gpu_uuid(device))
        nccl = device.type == "cuda" and not self.shares_gpu
        if not nccl:
            # gloo otherwise resolves the host's own name, which laptops and pods often cannot
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        dist.init_process_group(
            "nccl" if nccl else "gloo",
            store=dist.PrefixStore("starcoder", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=JOIN_TIMEOUT,
            device_id=device if nccl else None,
        )
        if 1 < self.stripe.count < self.size:
            everybody = torch.arange(self.size).view(-1, self.stripe.count).tolist()
            self._neighbours, _ = dist.new_subgroups_by_enumeration(everybody, timeout=JOIN_TIMEOUT)
        self._wires = meet(self._store, "starcoder/wire", self.rank, range(self.size))
        if not nccl:
            self._open_stars(self._store)

    def _open_stars(self, store: dist.Store) -> None:
        connections = meet(store, "starcoder/star", self.rank, range(self.size))
        self._star = self._neighbours_star = Star(connections, self.rank, self.size)
        if 1 < self.stripe.count < self.size:
            first = self.rank - self.stripe.own
            neighbours = range(first, first + self.stripe.count)
            connections = meet(store, f"starcoder/star/{first}", self.rank, neighbours)
            self._neighbours_star = Star(connections, self.stripe.own, self.stripe.count)

    def _find_shared_gpu(self, uuid: str) -> bool:
        """Whether two ranks sit on one GPU: each tells the others on which it is."""
        assert self._store is not None
        store = dist.PrefixStore("starcoder/gpu", self._store)
        store.set(str(self.rank), uuid)
        self.gpus = [store.get(str(rank)).decode() for rank in range(self.size)]
        shared = len(set(self.gpus)) < self.size
        if shared and self.is_first:
            logger.warning(
                "%d ranks share %d GPU(s): they talk through the CPU, without CUDA graphs, which is right but "
                "slow. Set num_kv_blocks: each rank takes the memory that it finds free",
                self.size,
                len(set(self.gpus)),
            )
        return shared

    @contextlib.contextmanager
    def meeting(self, limit: timedelta) -> Iterator[dist.Store]:
        """The store that ranks have joined by: within it, who waits there for another one gives up after `limit`."""
        assert self._store is not None
        self._store.set_timeout(limit)
        try:
            yield self._store
        finally:
            self._store.set_timeout(JOIN_TIMEOUT)

    # Collectives: every rank calls them, in one order.

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        if self.size == 1:
            return tensor
        mine = self._at_hand(tensor)
        if self._star is not None and is_small(mine):
            self._star.all_reduce(mine)
        else:
            dist.all_reduce(mine)
        return tensor if mine is tensor else tensor.copy_(mine)

    def gather_last_dim(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Rank 0: the ranks' tensors joined along the last dimension. Other ranks: None."""
        if self.size == 1:
            return tensor
        mine = self._at_hand(tensor)
        if self._star is not None and is_small(mine):
            gathered = self._star.gather(mine)
            parts = None if gathered is None else list(gathered)
        else:
            parts = [torch.empty_like(mine) for _ in range(self.size)] if self.is_first else None
            dist.gather(mine, parts, dst=0)
        return torch.cat(parts, dim=-1).to(tensor.device) if parts is not None else None

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of the ranks that share a cache: [...] -> [stripes, ...], everybody's in the order of ranks, contiguous."""
        if self.stripe.count == 1:
            return tensor.contiguous().unsqueeze(0)
        mine = self._at_hand(tensor)
        if self._neighbours_star is not None and is_small(mine):
            return self._neighbours_star.all_gather(mine).to(tensor.device)
        gathered = mine.new_empty(self.stripe.count, *mine.shape)
        dist.all_gather_single(gathered.view(-1, *mine.shape[1:]), mine, group=self._neighbours)
        return gathered.to(tensor.device)

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of the ranks that share a cache: [stripes, ...], one for each of them -> [stripes, ...], one of each."""
        if self.stripe.count == 1:
            return tensor
        mine = self._at_hand(tensor)
        if self._neighbours_star is not None and is_small(mine):
            return self._neighbours_star.exchange(mine).to(tensor.device)
        received = torch.empty_like(mine)
        dist.all_to_all_single(received, mine, group=self._neighbours)
        return received.to(tensor.device)

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rank 0's values on every rank, in place."""
        if self.size == 1:
            return tensor
        mine = self._at_hand(tensor)
        if self._star is not None and is_small(mine):
            self._star.broadcast(mine)
        else:
            dist.broadcast(mine, src=0)
        return tensor if mine is tensor else tensor.copy_(mine)

    def _at_hand(self, tensor: torch.Tensor) -> torch.Tensor:
        """Contiguous, and where collectives take it from: the same tensor, if it is there.

        Ranks that share a GPU go through main memory by themselves: gloo writes a GPU's tensors from a thread of its
        own, where releases of PyTorch that do not hand inference mode on to it refuse to.
        """
        return (tensor.cpu() if self.shares_gpu else tensor).contiguous()

    # The wire: rank 0 says what to run next.

    def send(self, message: bytes) -> None:
        """Rank 0: send `message` to every other rank."""
        for wire in self._wires:
            wire.send_bytes(message)

    def recv(self) -> bytes | None:
        """Other ranks: wait for rank 0's next message, using no CPU. None when rank 0 is gone."""
        try:
            return self._wires[0].recv_bytes()
        except (EOFError, ConnectionError):
            return None

    def reply(self, message: bytes) -> None:
        """Other ranks: reply to rank 0."""
        self._wires[0].send_bytes(message)

    def replies(self, timeout_s: float) -> list[bytes]:
        """Rank 0: one reply from every other rank.

        Raises TimeoutError naming the rank that is silent for `timeout_s` seconds, EOFError for one that is gone.
        """
        received = []
        for rank, wire in enumerate(self._wires, start=1):
            if not wire.poll(timeout_s):
                raise TimeoutError(f"rank {rank} did not answer within {timeout_s:g} s")
            received.append(wire.recv_bytes())
        return received

    def close(self) -> None:
        """Close wires and collectives. Safe to call twice, and after a failure."""
        for wire in self._wires:
            wire.close()
        self._wires = []
        for star in (self._star, self._neighbours_star):
            if star is not None:
                star.close()
        self._star = self._neighbours_star = None
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
        self._neighbours = None
        self._store = None
