"""Raw prompts that an editor templated itself: taken apart, and encoded as the template."""

from __future__ import annotations

import pytest
from hypothesis import given

from model.text.fim import FimMode, FimPrompt
from model.text.prompts import Raw
from tests.support.infills import EOS, STARCODER, hostile, infill, markerless, modes

RAW = Raw()
SHOT = "<fim_prefix>d<fim_suffix>e<fim_middle>f<|endoftext|>"
PSM = "<fim_prefix>a<fim_suffix>b<fim_middle>"
SPM = "<fim_prefix><fim_suffix>b<fim_middle>a"


@given(prefix=markerless, suffix=markerless, mode=modes)
def test_raw_fim_prompt_gives_the_ids_of_the_template(prefix: str, suffix: str, mode: FimMode) -> None:
    raw = {
        "psm": f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
        "spm": f"<fim_prefix><fim_suffix>{suffix}<fim_middle>{prefix}",
    }[mode]
    assert RAW.encode(STARCODER, raw) == infill(prefix, suffix, mode)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<fim_prefix>a<fim_suffix>b<fim_middle>", FimPrompt("psm", "a", "b")),
        ("<fim_prefix><fim_suffix>b<fim_middle>a", FimPrompt("spm", "a", "b")),
        ("<fim_prefix><fim_suffix><fim_middle>", FimPrompt("psm", "", "")),
        ("<fim_prefix>a<fim_suffix>b<fim_middle>c", FimPrompt("psm", "a", "b", started="c")),
        ("x<|endoftext|><fim_prefix>a<fim_suffix>b<fim_middle>", FimPrompt("psm", "a", "b", "x<|endoftext|>")),
        (f"x<|endoftext|>{SHOT}{SHOT}{PSM}", FimPrompt("psm", "a", "b", f"x<|endoftext|>{SHOT}{SHOT}")),
        (f"x<|endoftext|>{SHOT}{SHOT}{SPM}", FimPrompt("spm", "a", "b", f"x<|endoftext|>{SHOT}{SHOT}")),
        (
            "<fim_prefix><reponame>r<filename>p.py\na<b<fim_suffix>c<fim_middle>",
            FimPrompt("psm", "a<b", "c", header="<reponame>r<filename>p.py\n"),
        ),
        ("<fim_prefix>a<fim_middle>b<fim_suffix>c", None),
        ("<fim_suffix>b<fim_prefix>a<fim_middle>", None),
        ("no markers", None),
    ],
)
def test_parse_fim(raw: str, expected: FimPrompt | None) -> None:
    assert STARCODER.parse_fim(raw) == expected


def test_markers_inside_the_edited_file_stay_text() -> None:
    suffix = 'tokens = ["<fim_suffix>", "<|endoftext|>", "<fim_middle>"]\n'
    prefix = 'name = "<filename>"\n'
    assert RAW.encode(STARCODER, f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>") == infill(prefix, suffix)


def test_few_shot_raw_prompt_keeps_its_examples() -> None:
    shot = "<fim_prefix>a<fim_suffix>b<fim_middle>c<|endoftext|>"
    ids = RAW.encode(STARCODER, shot + "<fim_prefix>d<fim_suffix>e<fim_middle>")
    example = [*infill("a", "b"), *STARCODER.encode("c"), EOS]
    assert ids == example + infill("d", "e")


@given(raw=hostile)
def test_raw_prompts_always_keep_their_text(raw: str) -> None:
    assert STARCODER.decode(RAW.encode(STARCODER, raw), skip_special=False) == raw
