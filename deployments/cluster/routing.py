"""Which replica gets a request: the one whose cache should hold the longest prefix of it, unless it is much busier.

Requests of one editor session go to one replica, which knows the session. Every handle finds the same one, whatever it
remembers: by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998), in
which a replica that comes or goes moves its own sessions only.

Each handle remembers where it sent which blocks, by the engine's own hash chain. That is a guess about the replicas'
caches, but a cheap and mostly right one: what was sent last stays cached longest on both sides.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from deployments.cluster.loads import Loads
from deployments.health import Question
from deployments.protocol import Attach, GenerationRequest, Receipt
from model.scheduling.kv_cache import BlockHash, chain_hashes, root_of
from monitoring import tracing
from monitoring.labels import RoutingReason
from monitoring.routing import RoutingMetrics
from monitoring.spans import Value

REMEMBERED_BLOCKS = 200_000
"""About 3 million tokens; some 40 MB in the ingress."""

REMEMBERED_REQUESTS = 10_000

ReplicaT = TypeVar("ReplicaT", bound=Hashable)


class PrefixIndex:
    """Block hash to the replica that computed it last, the least recently used forgotten first."""

    def __init__(self, block_size: int, capacity: int = REMEMBERED_BLOCKS) -> None:
        self.block_size = block_size
        self.capacity = capacity
        self._owner: OrderedDict[BlockHash, Hashable] = OrderedDict()

    def __len__(self) -> int:
        return len(self._owner)

    def hashes(self, tokens: Sequence[int], cache_root: str = "") -> list[BlockHash]:
        return chain_hashes(tokens, self.block_size, root=root_of(cache_root))

    def holders(self, hashes: Iterable[BlockHash]) -> dict[Hashable, int]:
        """Replica to the number of leading blocks it is known for. A longer chain on one replica counts there only."""
        blocks: dict[Hashable, int] = {}
        for depth, value in enumerate(hashes, start=1):
            owner = self._owner.get(value)
            if owner is None:
                break
            blocks[owner] = depth
        return blocks

    def remember(self, hashes: Iterable[BlockHash], replica: Hashable) -> None:
        for value in hashes:
            self._owner[value] = replica
            self._owner.move_to_end(value)
        while len(self._owner) > self.capacity:
            self._owner.popitem(last=False)


class Asked:
    """Which replica each request was sent to last, the oldest requests forgotten first."""

    def __init__(self, capacity: int = REMEMBERED_REQUESTS) -> None:
        self._capacity = capacity
        self._replicas: OrderedDict[str, Hashable] = OrderedDict()

    def remember(self, request: GenerationRequest, replica: Hashable) -> None:
        self._replicas[request.first_id] = replica
        while len(self._replicas) > self._capacity:
            self._replicas.popitem(last=False)

    def others(self, request: GenerationRequest | None, replicas: Iterable[ReplicaT]) -> list[ReplicaT]:
        """Those for the request. It comes again since the last one failed, which may take seconds to end: not to it.

        Unless there is no other.
        """
        known = list(replicas)
        failed = self._replicas.get(request.first_id) if request is not None and request.attempt else None
        return [replica for replica in known if replica != failed] or known


def choose(
    loads: Mapping[Hashable, int], blocks: Mapping[Hashable, int], imbalance: int, tie: Callable[[int], int]
) -> Hashable:
    """The replica with the most known blocks, if it has at most `imbalance` requests more than the least busy one.

    Otherwise one of the least busy. loads: open requests a replica. tie: a random index below its argument.
    """
    least = min(loads.values())
    best = max((r for r in loads if loads[r] <= least + imbalance), key=lambda r: blocks.get(r, 0))
    if blocks.get(best, 0) > 0:
        return best
    idle = [r for r in loads if loads[r] == least]
    return idle[tie(len(idle))]


def home(session: str, replicas: Iterable[Hashable]) -> Hashable:
    """The replica that a session belongs to."""
    return max(replicas, key=lambda replica: hashlib.blake2b(f"{session} {replica}".encode(), digest_size=8).digest())


def prospects(blocks: Mapping[Hashable, int], living: Container[Hashable], chosen: Hashable) -> tuple[int, int]:
    """Of a prompt's leading blocks, how many the living replica is known for that has most, and how many the chosen."""
    here = blocks.get(chosen, 0)
    return max([here, *(count for replica, count in blocks.items() if replica in living)]), here


def reason_for(chosen: Hashable, session_home: Hashable | None, known: int, expected: int) -> RoutingReason:
    """Why a request went to the chosen replica, seen afterwards: whoever chose it, and for whatever reason.

    session_home: of the request's editor session, if it has one. known, expected: see `prospects`.
    """
    if session_home is not None:
        return "session" if chosen == session_home else "passed_over"
    if expected < known:
        return "passed_over"
    return "prefix" if expected else "nothing_known"


class PrefixRouter(RequestRouter):
    """Serve's router over `PrefixIndex` and `choose`; configured with `block_size`, `imbalance` and `model`."""

    def initialize_state(self, block_size: int = 16, imbalance: int = 8, model: str = "") -> None:
        import random

        self._metrics = RoutingMetrics(model)
        self._index = PrefixIndex(block_size)
        self._asked = Asked()
        self._loads = Loads()
        self._imbalance = imbalance
        self._random = random.Random()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if not candidate_replicas:
            return []
        if (addressee := _addressee(pending_request)) is not None:
            found = [replica for replica in candidate_replicas if replica.replica_id.unique_id == addressee]
            for replica in found:
                self._loads.errand(replica.replica_id)
            return [found or candidate_replicas]  # another one will say that it is not the addressee
        request = _request(pending_request)
        candidates = {replica.replica_id: replica for replica in candidate_replicas}
        living = self._loads.answering(candidates)
        known = {replica_id: candidates[replica_id] for replica_id in self._asked.others(request, living)}
        loads = self._loads.of(known)
        if request is not None and request.session is not None:
            blocks = {home(request.session.key, known): 1}
        else:
            blocks = {r: n for r, n in self._index.holders(self._hashes(request)).items() if r in known}
        chosen = choose(loads, blocks, self._imbalance, self._random.randrange)
        if request is None:
            self._loads.errand(chosen)
        others = [replica for replica_id, replica in known.items() if replica_id != chosen]
        # the others only where the chosen one refuses
        return [[known[chosen]], others] if others else [[known[chosen]]]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._loads.sent(replica_id)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        self._loads.reported(replica_id, num_ongoing_requests)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        request = _request(pending_request)
        self._loads.routed(replica_id, pending_request.metadata.internal_request_id, errand=request is None)
        if request is None:
            return
        self._asked.remember(request, replica_id)
        hashes = self._hashes(request)
        blocks = self._index.holders(hashes)
        known, expected = (
            count * self._index.block_size for count in prospects(blocks, self.curr_replicas, replica_id)
        )
        session = request.session and home(request.session.key, {*self.curr_replicas, replica_id})
        self._metrics.routed(reason_for(replica_id, session, known, expected), known, expected)
        if request.trace:
            trace_route(request, replica_id.unique_id, pending_request.created_at, expected)
        self._index.remember(hashes, replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        super().on_request_completed(replica_id, internal_request_id)
        self._loads.completed(replica_id, internal_request_id)

    def _hashes(self, request: GenerationRequest | None) -> list[BlockHash]:
        return [] if request is None else self._index.hashes(request.prompts[0], request.cache_root)


def _request(pending_request: PendingRequest | None) -> GenerationRequest | None:
    arguments = pending_request.args if pending_request is not None else ()
    return next((argument for argument in arguments if isinstance(argument, GenerationRequest)), None)


def _addressee(pending_request: PendingRequest | None) -> str | None:
    """The replica that a call is for, by name."""
    arguments = pending_request.args if pending_request is not None else ()
    return next((argument.engine for argument in arguments if isinstance(argument, Attach | Receipt | Question)), None)


def trace_route(request: GenerationRequest, replica: str, created_at: float, known_tokens: int) -> None:
    """The span of finding a replica. created_at: Unix seconds; known_tokens: of the prompt, thought to be cached."""
    attributes: dict[str, Value] = {"starcoder.engine": replica, "starcoder.route.known_prefix_tokens": known_tokens}
    tracing.current().start("route", request.trace, attributes=attributes, start_ns=int(created_at * 1e9)).end()
