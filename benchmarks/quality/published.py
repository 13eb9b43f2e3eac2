"""Figures that were published of these models, what they are of, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass

STARCODER = (
    "StarCoder: may the source be with you! (arXiv 2305.06161), as the model's card repeats it; "
    "FIM and JavaScript were not seen there"
)
STARCODERBASE = "StarCoder: may the source be with you! (arXiv 2305.06161), as the model's card repeats it"
SANTACODER = "model card of bigcode/santacoder, of SantaCoder: don't reach for the stars! (arXiv 2301.03988)"
CARD = "model card; 50 answers each, as the Multilingual Code Evaluation LeaderBoard's instructions say"
SEEN_IN_PART = "Multilingual Code Evaluation LeaderBoard; its table was not looked up, of the model's card only `28.`"
TINY = "model card of bigcode/tiny_starcoder_py; it does not say how many answers, taken for 200"


@dataclass(frozen=True)
class Published:
    """percent: of answers that were right, the first one where there are several. samples: a problem.

    source: where it stands; of what was not seen there, it says so.
    unlike: what was not as in the protocol here, if anything, so that nobody can reproduce it with that.
    """

    percent: float
    samples: int
    source: str
    unlike: str | None = None


Figures = dict[tuple[str, str], Published]
"""By benchmark and group."""


def _figures(source: str, samples: dict[str, int], unlike: str | None = None, **percents: float) -> Figures:
    """percents: by benchmark and group, with two underscores between them."""
    found = {}
    for name, percent in percents.items():
        benchmark, _, group = name.partition("__")
        benchmark = benchmark.replace("_", "-")
        found[benchmark, group or "python"] = Published(percent, samples[benchmark], source, unlike)
    return found


_PAPER = {"humaneval": 200, "mbpp": 15, "ds1000": 40, "multipl-e": 50, "fim": 1}
_BOARD = {"humaneval": 50, "multipl-e": 50}

FIGURES: dict[str, Figures] = {
    "starcoder": _figures(
        STARCODER,
        _PAPER,
        humaneval=33.6,
        mbpp=52.7,
        ds1000__all=26.0,
        multipl_e__java=30.22,
        multipl_e__js=30.8,
        multipl_e__cpp=31.55,
        fim__py=62.0,
        fim__java=73.0,
        fim__js=74.0,
    ),
    "starcoderbase": _figures(
        STARCODERBASE,
        _PAPER,
        humaneval=30.4,
        mbpp=49.0,
        ds1000__all=23.8,
        multipl_e__java=28.53,
        multipl_e__js=31.7,
        multipl_e__cpp=30.56,
        multipl_e__lua=26.61,
    ),
    "starcoderbase-7b": _figures(SEEN_IN_PART, _BOARD, humaneval=28.4, multipl_e__java=24.4),
    "starcoderbase-3b": _figures(
        CARD,
        _BOARD,
        humaneval=21.46,
        multipl_e__java=19.25,
        multipl_e__js=21.32,
        multipl_e__cpp=19.43,
        multipl_e__php=18.55,
        multipl_e__lua=18.04,
        multipl_e__rs=16.32,
    ),
    "starcoderbase-1b": _figures(
        CARD,
        _BOARD,
        humaneval=15.17,
        multipl_e__java=14.2,
        multipl_e__js=13.38,
        multipl_e__cpp=11.68,
        multipl_e__php=9.94,
        multipl_e__lua=12.52,
        multipl_e__rs=10.24,
    ),
    "santacoder": {
        **_figures(SANTACODER, _PAPER, "MultiPL-E's Python", humaneval=18.0, mbpp=35.0),
        **_figures(SANTACODER, _PAPER, fim__py=44.0, fim__java=62.0, fim__js=60.0),
    },
    "tiny_starcoder_py": _figures(TINY, _PAPER, humaneval=7.84),
}
"""By the model's name, without its owner."""


def published(model: str, benchmark: str, group: str) -> Published | None:
    """model: an id such as `bigcode/starcoder`."""
    return FIGURES.get(model.rpartition("/")[2].lower(), {}).get((benchmark, group))
