"""The page that `starcoder verify` writes, word by word."""

from __future__ import annotations

from dataclasses import replace

from deployments.command.verify import judging
from deployments.command.verify.judging import CaseVerdict, Departure, Error, Judgement
from deployments.command.verify.movement import Foreseen, Movement
from deployments.command.verify.readings import Drafts
from deployments.command.verify.report import Report

CASES = [
    CaseVerdict("greedy", 3, 1234, 60, Error(0.0123, 0.04), Error(0.011, 0.05), [], 3, 0),
    CaseVerdict("speculation", note="not tried: it is switched off"),
    CaseVerdict("sampling", 2, 10, 20, Error(0.5, 1.0), Error(0.01, 0.02), [], 2, 0, note="no draft was wrong"),
]
REPORT = Report(
    judgement=Judgement(CASES, Error(0.012, 0.045), Error(0.0134, 0.05), 0.07),
    spelling=[],
    spelled=7,
    foreseen=Foreseen(1500, 12.34567, 12.3, 12.4),
    movement=None,
    exact="float64",
    served="bfloat16",
    quantization="none",
    settings={"dtype": "bfloat16", "max_num_seqs": 4},
    checkpoint={"sha256": "00ff", "revision": "main"},
    versions={"torch": "2.9", "transformers": "4.57"},
    machine=["a CPU", "2 cores"],
    path={"ranks": 2, "graph": None, "backend": "C"},
    seconds=12.6,
    drafts=Drafts(1000, 10, 20, 2),
)
PAGE = """\
# starcoder verify: agrees

The engine computes what transformers computes. At 1,244 positions its log-probabilities (bfloat16) are off from \
float64 by 0.012 nats (root mean square; 0.045 at most where a token is likelier than 1 in 100), and those of \
transformers in bfloat16 are off by 0.013 (0.05). 5 of 5 continuations are, token by token, what that finds \
likeliest. Both tokenizers give 7 texts the same ids.

| case | prompts | positions | engine, nats | transformers | parted | |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
| greedy | 3 | 1,234 | 0.012 (0.04) | 0.011 (0.05) | 0 of 3 | agrees |
| speculation | | | | | | not tried: it is switched off |
| sampling | 2 | 10 | 0.5 (1) | 0.01 (0.02) | 0 of 2 | no draft was wrong |

Perplexity of 1,500 tokens of code: engine 12.346, transformers in bfloat16 12.4, in float64 12.3.

- checkpoint: SHA-256 00ff, revision main
- drafts: 1,000 tokens by prompt lookup, 10 of them right; 20 by a draft model, 2 of them right
- settings: dtype=bfloat16, max_num_seqs=4
- engine: ranks=2, backend=C
- machine: a CPU; 2 cores
- versions: torch 2.9, transformers 4.57
- 13 s
"""


def test_a_page_says_all_there_is_to_know() -> None:
    assert REPORT.markdown() == PAGE


def with_case(case: CaseVerdict) -> Report:
    judgement = Judgement([case], Error(0.01, 0.02), Error(0.01, 0.02), 0.07)
    return replace(REPORT, judgement=judgement, foreseen=None, spelled=0)


def test_of_many_faults_the_first_twenty_are_told() -> None:
    for count, last in ((20, "- greedy: fault 19"), (21, "And 1 more."), (23, "And 3 more.")):
        page = with_case(replace(CASES[0], faults=[f"fault {number}" for number in range(count)])).markdown()
        assert page.startswith("# starcoder verify: DISAGREES\n\nThe engine does NOT compute")
        assert page.count("- greedy: fault ") == 20
        assert page.partition("\n\n| case |")[0].endswith(last)
        assert "| 0 of 3 | DISAGREES |" in page


def test_where_continuations_part_is_told_by_how_near_the_tokens_are() -> None:
    near = [Departure("a prompt", 3, 7, 8, 0.02), Departure("a prompt", 4, 7, 8, 0.07)]
    case = replace(CASES[0], departures=near, parted=2)
    told = with_case(case).verdict()
    assert told.endswith(
        "1 of 3 continuations are, token by token, what that finds likeliest; 2 part from it"
        " at near ties, of two tokens that are 0.07 nats apart at most."
    )
    far = replace(case, departures=[*near, Departure("a prompt", 5, 7, 8, 0.5)])
    assert with_case(far).verdict().endswith("; 2 part from it, at 1 of 3 tokens by more than 0.07 nats.")


def test_a_case_that_broke_before_it_wrote_is_no_case_without_anything_to_show() -> None:
    page = with_case(CaseVerdict("speculation", faults=["two hold a block"])).markdown()
    assert "| speculation | 0 | 0 | 0 (0) | 0 (0) | 0 of 0 | DISAGREES |" in page


def test_tokenizers_that_differ_are_a_fault() -> None:
    report = replace(REPORT, spelling=["'a b' is 1 2, and 3 by transformers"])
    assert not report.agrees
    assert report.verdict().endswith("Both tokenizers give 7 texts different ids.")
    assert "\n\n- 'a b' is 1 2, and 3 by transformers\n\n| case" in report.markdown()


def test_what_eight_bits_cost_is_told_before_the_cases() -> None:
    moved = Movement(1200, 0.01234, 0.25, 0.987, 12.5, 12.25)
    report = replace(REPORT, quantization="int8", movement=moved)
    told = (
        "int8 itself moves the model: at 1,200 positions of code the likeliest token stays the same at 98.7%, the "
        "distribution is 0.0123 nats away (0.25 at most), and perplexity is 12.5 instead of 12.25. That is what the "
        "setting costs, and not counted above."
    )
    assert report.effect() == told
    assert f"\n\n{told}\n\n| case" in report.markdown()
    assert "(bfloat16, products in int8) are off from float64 with the same 8 bits by" in report.verdict()
    assert REPORT.effect() is None


def test_of_departures_a_report_keeps_the_first_twenty() -> None:
    many = [Departure("a prompt", number, 7, 8, 0.02) for number in range(25)]
    (case,) = with_case(replace(CASES[0], departures=many)).json()["cases"]
    assert [departure["at"] for departure in case["departures"]] == [*range(20)]


def test_a_report_as_json_has_all_that_the_page_has() -> None:
    report = with_case(CASES[0]).json()
    assert report["verdict"] == with_case(CASES[0]).verdict()
    assert report["limits"] == {
        "overall_rms_times": judging.OVERALL_TIMES,
        "rms_times": judging.RMS_TIMES,
        "prompt_rms_times": judging.PROMPT_TIMES,
        "largest_times": judging.LARGEST_TIMES,
        "floor_nats": judging.FLOOR,
        "tie_nats": 0.07,
    }
    assert report["error_nats"]["transformers"] == {"rms": 0.01, "largest": 0.02}
    assert report["tokenizer"] == {"texts": 0, "differences": []}
    assert report["drafts"] == {"lookup": 1000, "lookup_right": 10, "model": 20, "model_right": 2}
    told = ("agrees", "faults", "checkpoint", "draft_model", "settings", "engine", "machine", "versions", "seconds")
    assert [report[name] for name in told] == [
        *(True, [], REPORT.checkpoint, None, REPORT.settings),
        *(REPORT.path, REPORT.machine, REPORT.versions, 12.6),
    ]
    assert (report["exact"], report["served"]) == ("float64", "bfloat16")
    assert report["perplexity"] is report["quantization"] is None
    assert REPORT.json()["perplexity"] == {"positions": 1500, "engine": 12.34567, "exact": 12.3, "served": 12.4}
