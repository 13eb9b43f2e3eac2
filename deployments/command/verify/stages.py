"""The processes of a verification: the ranks of an engine, then, when they are gone, transformers.

Both models need not fit at once, and this process imports neither of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from deployments.command.verify.cases import Material
from deployments.command.verify.child import Line, Say, together
from deployments.command.verify.readings import EngineAnswer, Pass, Place, Reading, Text
from deployments.command.verify.tokens import Spelling
from model.config import EngineConfig

Prepare = Callable[[int], None]
"""Called in each rank's process with its number, before it loads. Picklable."""


def as_it_is(rank: int) -> None:
    """Changes nothing."""


def run_engine(config: EngineConfig, material: Material, say: Say, prepare: Prepare = as_it_is) -> EngineAnswer:
    """Every case on an engine of this configuration. Raises ConfigError, and RuntimeError where it fails."""
    works = [partial(_rank, config, number, material, prepare) for number in range(config.tensor_parallel_size)]
    answer = together(works, say)[0]
    assert isinstance(answer, EngineAnswer)
    return answer


def _rank(config: EngineConfig, number: int, material: Material, prepare: Prepare, line: Line) -> EngineAnswer | None:
    from deployments.command.verify.writing import answer
    from model.process.rank import Rank

    prepare(number)
    rank = Rank(config, number)
    address = line.first(rank.listen() if number == 0 else None)
    if number == 0:
        line.say("engine: loading")
    rank.load(address)
    if number:
        rank.run()
        return None
    try:
        return answer(rank, material, line.say)
    finally:
        rank.group.close()


def read_texts(directory: Path, texts: Sequence[Text], passes: Sequence[Pass], place: Place, say: Say) -> list[Reading]:
    """What transformers says of the texts, in each pass. Raises RuntimeError where it fails."""
    (readings,) = together([partial(_read, directory, texts, passes, place)], say, place.scratch)
    assert isinstance(readings, list)
    return readings


def _read(directory: Path, texts: Sequence[Text], passes: Sequence[Pass], place: Place, line: Line) -> list[Reading]:
    from deployments.command.verify.reference import read

    return read(directory, texts, passes, place, line.say)


def spell(directory: Path, samples: Sequence[str], say: Say) -> list[Spelling]:
    """The samples' ids by transformers' tokenizer. Raises RuntimeError where it fails."""
    (spellings,) = together([partial(_spell, directory, samples)], say)
    assert isinstance(spellings, list)
    return spellings


def _spell(directory: Path, samples: Sequence[str], line: Line) -> list[Spelling]:
    from deployments.command.verify.tokens import theirs

    return theirs(directory, samples)
