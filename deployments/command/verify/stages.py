"""The processes of a verification: the ranks of an engine, then, when they are gone, transformers.

Both models need not fit at once, and this process imports neither of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from deployments.command.verify.cases import Material
from deployments.command.verify.child import Line, Say, together
from deployments.command.verify.readings import EngineAnswer, Pass, Place, Reading, Text
from deployments.command.verify.tokens import Spelling
from model.config import EngineConfig


def run_engine(config: EngineConfig, material: Material, say: Say) -> EngineAnswer:
    """Every case on an engine of this configuration. Raises ConfigError, and RuntimeError where it fails."""
    works = [partial(_rank, config, number, material) for number in range(config.tensor_parallel_size)]
    answer = together(works, say)[0]
    assert isinstance(answer, EngineAnswer)
    return answer


def _rank(config: EngineConfig, number: int, material: Material, line: Line) -> EngineAnswer | None:
    if number == 0:
        line.say("engine: loading")
    from deployments.command.verify.writing import answer
    from model.process.rank import Rank

    rank = Rank(config, number)
    address = line.first(rank.listen() if number == 0 else None)
    rank.load(address)
    if number:
        rank.run()
        return None
    try:
        return answer(rank, material, line.say)
    finally:
        rank.group.close()


def run_transformers(
    directory: Path, texts: Sequence[Text], passes: Sequence[Pass], place: Place, samples: Sequence[str], say: Say
) -> tuple[list[Reading], list[Spelling]]:
    """What transformers says of the texts, in each pass, and how it spells the samples.

    Raises RuntimeError where it fails.
    """
    work = partial(_transformers, directory, texts, passes, place, samples)
    ((readings, spellings),) = together([work], say, place.scratch)
    return readings, spellings


def _transformers(
    directory: Path, texts: Sequence[Text], passes: Sequence[Pass], place: Place, samples: Sequence[str], line: Line
) -> tuple[list[Reading], list[Spelling]]:
    from deployments.command.verify.reference import read
    from deployments.command.verify.tokens import theirs

    spellings = theirs(directory, samples)
    return read(directory, texts, passes, place, line.say), spellings
