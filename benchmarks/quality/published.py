"""Figures that were published of these models, what they are of, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass

STARCODER = "StarCoder: may the source be with you! (arXiv 2305.06161)"
SANTACODER = "SantaCoder: don't reach for the stars! (arXiv 2301.03988)"
LEADERBOARD = "Multilingual Code Evaluation LeaderBoard"
TINY = "model card of bigcode/tiny_starcoder_py"


@dataclass(frozen=True)
class Published:
    """percent: of answers that were right, the first one where there are several. samples: a problem."""

    percent: float
    samples: int
    source: str


Figures = dict[tuple[str, str], Published]
"""By benchmark and group."""


def _figures(source: str, samples: dict[str, int], **percents: float) -> Figures:
    """percents: by benchmark and group, with two underscores between them."""
    found = {}
    for name, percent in percents.items():
        benchmark, _, group = name.partition("__")
        benchmark = benchmark.replace("_", "-")
        found[benchmark, group or "python"] = Published(percent, samples[benchmark], source)
    return found


_PAPER = {"humaneval": 200, "mbpp": 15, "ds1000": 40, "multipl-e": 50, "fim": 1}

FIGURES: dict[str, Figures] = {
    "starcoder": _figures(
        STARCODER,
        _PAPER,
        humaneval=33.6,
        mbpp=52.7,
        ds1000__all=26.0,
        multipl_e__java=30.2,
        multipl_e__js=30.8,
        multipl_e__cpp=31.6,
        fim__py=62.0,
        fim__java=73.0,
        fim__js=74.0,
    ),
    "starcoderbase": _figures(
        STARCODER,
        _PAPER,
        humaneval=30.4,
        mbpp=49.0,
        ds1000__all=23.8,
        multipl_e__java=28.5,
        multipl_e__js=31.7,
        multipl_e__cpp=30.6,
    ),
    "starcoderbase-7b": _figures(LEADERBOARD, {**_PAPER, "humaneval": 50}, humaneval=28.4, multipl_e__java=24.4),
    "starcoderbase-3b": _figures(LEADERBOARD, {**_PAPER, "humaneval": 50}, humaneval=21.5, multipl_e__java=19.3),
    "starcoderbase-1b": _figures(LEADERBOARD, {**_PAPER, "humaneval": 50}, humaneval=15.2, multipl_e__java=14.2),
    "santacoder": _figures(SANTACODER, _PAPER, humaneval=18.1, mbpp=35.0, fim__py=44.0, fim__java=62.0, fim__js=60.0),
    "tiny_starcoder_py": _figures(TINY, _PAPER, humaneval=7.8),
}
"""By the model's name, without its owner."""


def published(model: str, benchmark: str, group: str) -> Published | None:
    """model: an id such as `bigcode/starcoder`."""
    return FIGURES.get(model.rpartition("/")[2].lower(), {}).get((benchmark, group))
