"""Where completions of code end, and that it does not depend on the pieces in which they come."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.protocol import SUFFIX_CHARACTERS, CompletionMode, StopRules
from deployments.stop_rules.ask import ask, settings
from deployments.stop_rules.languages import LANGUAGES, guess_language
from deployments.stop_rules.pipeline import build_pipeline

TOKENIZER = SimpleNamespace(special={"<fim_middle>": 2, "<|endoftext|>": 0})
HELD_OUT = (Path(__file__).parents[2] / "model/data/pico_heldout.txt").read_text()


def rules(
    prefix: str = "",
    suffix: str = "",
    mode: CompletionMode = "auto",
    language: str = "python",
    least: float | None = None,
    **changes: bool,
) -> StopRules:
    said = {
        "suffix": changes.get("trim_suffix", True),
        "repetition": changes.get("stop_repetition", True),
        "special_token": changes.get("special", True),
        "low_confidence": least,
    }
    return ask(
        mode,
        settings(mode, said),
        language=language,
        prefixes=(prefix,),
        suffixes=(suffix[:SUFFIX_CHARACTERS],),
    )


def end(wanted: StopRules, text: str, cuts: tuple[int, ...] = (), logprobs: list[float] | None = None):
    """What is shown of a text that comes in pieces, and which rule ended it."""
    pipeline = build_pipeline(wanted, 0, TOKENIZER)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = ""
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        shown += pipeline.push(text[a:b], (logprobs or [])[number : number + 1])
        assert text.startswith(shown)
    return shown + pipeline.flush(), pipeline.ended_by


def read_characters(wanted: StopRules, text: str) -> int:
    """How many characters it takes until the text is ended."""
    pipeline = build_pipeline(wanted, 0, TOKENIZER)
    for count, char in enumerate(text, start=1):
        pipeline.push(char)
        if pipeline.ended:
            return count
    return len(text)


@pytest.mark.parametrize(
    ("prefix", "suffix", "text", "kept", "rule"),
    [
        pytest.param(
            "def f(a):", "\n", "\n    x = 1\n\n    return x\n\ndef g():\n", "\n    x = 1\n\n    return x", "block"
        ),
        pytest.param("def f(a):\n    ", "\n", "x = (1,\n2)\n    y\n\nclass A: pass\n", "x = (1,\n2)\n    y", "block"),
        pytest.param("    x = ", "\n    y\n", "1\n    z = 2\n", "1", "block", id="statement"),
        pytest.param("x = foo(", "", "a,\n    b)\ny = 2\n", "a,\n    b)", "block", id="statement of several lines"),
        pytest.param("if x:\n    foo()\n", "\n", "else:\n    y\nz", "else:\n    y", "block", id="else goes on"),
        pytest.param("x = 1 +", "\n", " \\\n  2\ny", " \\\n  2", "block", id="continued line"),
        pytest.param('s = """a\n', '\n"""\n', 'def\nx\n"""\ny', "def\nx", "suffix", id="in a string"),
        pytest.param("f = [", "\n", "  # )\n  1,\n]\ng", "  # )\n  1,\n]", "block", id="bracket in a comment"),
        pytest.param("print('", "')\nfoo()", "a (b')\nfoo()\n", "a (b", "suffix", id="rest of the line"),
        pytest.param(
            "return max(", ")\n\nx\n", "a, min(1, 2))\n", "a, min(1, 2)", "suffix", id="bracket of the suffix"
        ),
        pytest.param("f(g", ")\nx", "(y)", "(y)", None, id="a bracket of its own"),
        pytest.param("    a\n    ", "\n    return res\n", "b\n    return res\n", "b", "suffix", id="next line"),
        pytest.param("    a\n    ", "\n    return res\n", "b\n    return resist", "b\n    return resist", None),
        pytest.param("a = 1", "", "\n<fim_middle>b", "\n", "special_token"),
        pytest.param("    ", "", "a()\n    b()\n    a()\n    b()\n    a()\n    b()\n", "a()\n    b()", "repetition"),
        pytest.param("    ", "", "a()\n    a()\n    b()", "a()\n    a()\n    b()", None, id="two equal lines"),
        pytest.param("", "", "a()\nb()\n" * 2 + "c()\n", "a()\nb()\n" * 2 + "c()\n", None, id="two equal blocks"),
        pytest.param("", "", "a()\nb()\n" * 2 + "a()\nc()\n", "a()\nb()\n" * 2 + "a()\nc()\n", None, id="and a half"),
        pytest.param("x = ", "", "ab" * 100, "ab" * 16, "repetition"),
        pytest.param("# A ", "", "simple " * 20, "simple ", "repetition", id="a word"),
        pytest.param("# sim", "", "ple simple" + " simple" * 20, "ple simple ", "repetition", id="a word half typed"),
        pytest.param("# ", "", "is not, " + "and it is not, " * 9, "is not, and it ", "repetition", id="words"),
        pytest.param("# ", "", "and so on " * 3 + "an", "and so on ", "repetition", id="words at the end"),
        pytest.param("# ", "", "and so on " * 2, "and so on " * 2, None, id="words twice"),
        pytest.param("def f", "", "_value" * 20, "_value_", "repetition", id="a name"),
        pytest.param("x = [", "", "0, " * 20 + "1]", "0, " * 20 + "1]", None, id="a row of numbers"),
        pytest.param("x, y = ", "", "self.x, self.y", "self.x, self.y", None, id="a word twice"),
        pytest.param("# ", "", "-" * 100, "-" * 100, None, id="a ruler"),
        pytest.param("x = [", "\n]\n", "1, 2\n", "1, 2", "suffix", id="no newline twice"),
        pytest.param("class A:\n    def f(self):\n        return 1", "\n", "\n\nclass B:\n    pass\n", "", "block"),
    ],
)
def test_python_ends(prefix: str, suffix: str, text: str, kept: str, rule: str | None) -> None:
    assert end(rules(prefix, suffix), text) == (kept, rule)


@pytest.mark.parametrize(
    ("language", "prefix", "suffix", "text", "kept", "rule"),
    [
        (
            "java",
            "void f() {\n  for (;;) {",
            "\n}\n",
            '\n    p("}"); // }\n  }\n  q();\n}',
            '\n    p("}"); // }\n  }',
            "block",
        ),
        ("java", "void f() {\n  ", "\n}\n", "char c = '}';\n  r(c);\n}\nint x;", "char c = '}';\n  r(c);", "suffix"),
        ("c", "int f() {\n  g(", ");\n}\n", "a, b(c));\n}\n", "a, b(c)", "suffix"),
        ("cpp", "int f() {\n  int x = ", "\n}\n", "g(1,\n    2);\n  y;\n", "g(1,\n    2);", "block"),
        (
            "java",
            "class A {\n  void f() {",
            "\n}\n",
            "\n  a();\n  } else {\n  b();\n  }\n  c;",
            "\n  a();\n  } else {\n  b();\n  }",
            "block",
        ),
        (
            "javascript",
            "const f = () => {",
            "\n",
            "\n  return /[{]/.test(`{`)\n}\ng()",
            "\n  return /[{]/.test(`{`)\n}",
            "block",
        ),
        ("rust", "fn f<'a>(x: &'a str) {", "\n", "\n  let c = '{';\n}\nfn g() {}", "\n  let c = '{';\n}", "block"),
        ("go", "", "", "func f() {\n\tx()\n}\n\nfunc g() {}\n", "func f() {\n\tx()\n}", "block"),
        ("java", "int f() {\n", "\n", "/* } */\n  x();\n}\nint g;", "/* } */\n  x();\n}", "block"),
        (
            "ruby",
            "def f\n  if x",
            "\nend\n",
            "\n    y\n  else\n    z\n  end\n  q\nend\n",
            "\n    y\n  else\n    z\n  end",
            "block",
        ),
        ("ruby", "def f", "\nend\n", "\n  y\nend\nx", "\n  y", "block"),
        ("lua", "function f()", "\n", "\n  y() --[[ end\n]]\nend\nx", "\n  y() --[[ end\n]]\nend", "block"),
        ("other", "It", "\n", " is so\nthat", " is so", "block"),
    ],
)
def test_other_languages_end(language: str, prefix: str, suffix: str, text: str, kept: str, rule: str) -> None:
    assert end(rules(prefix, suffix, language=language), text) == (kept, rule)


def test_line_mode() -> None:
    assert end(rules("x = ", "\ny", mode="line"), "foo(\n1)") == ("foo(", "line")
    assert end(rules("if x:", "", mode="line"), "\n    y\n    z") == ("\n    y", "line")
    assert end(rules("x = ", " + 1\n", mode="line"), "\nz") == ("", "line")


def test_block_mode_goes_on_with_the_block() -> None:
    text = "1\n    y = 2\nz = 3\n"
    assert end(rules("def f():\n    x = ", "\n", mode="block"), text) == ("1\n    y = 2", "block")
    assert end(rules("def f():\n    x = ", "\n", mode="auto"), text) == ("1", "block")


def test_nothing_rather_than_a_bad_guess() -> None:
    text, cuts = "a b\nc d\n", (1, 2, 3, 4, 5, 6, 7)
    good, bad = [-0.1] * 8, [-3.0] * 8
    least = rules("", mode="raw", least=-1.0, trim_suffix=False, stop_repetition=False, special=False)
    assert end(least, text, cuts, good) == (text, None)
    assert end(least, text, cuts, bad) == ("", "low_confidence")
    assert end(least, text, cuts, good[:4] + bad[:4]) == ("a b", "low_confidence")
    long = "x" * 40
    edges = tuple(range(1, 40))
    assert end(least, long, edges, [-2.0] * 16 + [0.0] * 24) == ("", "low_confidence")
    assert end(least, long, edges, [-0.5] * 16 + [-9.0] * 24) == (long, None)


def test_generation_ends_when_the_text_says_so() -> None:
    """At the first character that shows it, not a line later."""
    assert read_characters(rules("def f():", "\n"), "\n    a\nb = 1\n") == len("\n    a\nb")
    assert read_characters(rules("x = ", "\n"), "1\ny = 2") == len("1\n")
    assert read_characters(rules("f(", ")\n"), "x) + 1\n") == len("x)")


OFF = StopRules(mode="raw", prefixes=("x",), suffixes=("y",))
PIECES = st.sampled_from(
    [
        *("\n", "    ", "  ", "x = 1", "if a:", "else:", "return x", "(", ")", "{", "}", "[", "]", '"', '"""', "'"),
        *("#", "//", "/*", "*/", "`", "end", "<fim_middle>", "<fim", ", ", "aa", "b", ";", "\t", "\r\n", "é", "\\"),
    ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)
MODES = st.sampled_from(["auto", "line", "block", "raw"])
SWITCHES = st.fixed_dictionaries({name: st.booleans() for name in ("trim_suffix", "stop_repetition", "special")})


@given(
    TEXTS, TEXTS, TEXTS, MODES, st.sampled_from(sorted(LANGUAGES)), SWITCHES, st.lists(st.integers(0, 120), max_size=9)
)
@example("", "", "aa\n" * 9, "raw", "other", {"stop_repetition": True}, [8, 9, 10])
def test_any_chunking_ends_alike(prefix, suffix, text, mode, language, switches, cuts) -> None:
    wanted = rules(prefix, suffix, mode, language, **switches)
    whole = end(wanted, text)
    assert text.startswith(whole[0])
    assert (whole[0] == text) or whole[1] is not None
    assert end(wanted, text, tuple(cuts)) == whole
    assert end(wanted, text, tuple(range(len(text)))) == whole


@given(TEXTS, st.integers(), SWITCHES)
def test_a_held_line_is_shown_or_not_at_all(text, seed, switches) -> None:
    logprobs = random.Random(seed).choices([-0.1, -1.0, -5.0], k=len(text) + 1)
    wanted = rules("", "", "raw", "python", -2.0, **switches)
    shown, _ = end(wanted, text, tuple(range(len(text))), logprobs)
    assert text.startswith(shown)


@given(TEXTS, st.lists(st.integers(0, 120), max_size=9))
def test_with_everything_off_the_text_is_the_models(text, cuts) -> None:
    assert end(OFF, text, tuple(cuts)) == (text, None)


def gaps(text: str):
    """The rest of each line of a file, from its indentation and from its middle, with what is around it."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        for cut in {indent, (indent + len(line)) // 2} if line.strip() else ():
            before, after = "\n".join([*lines[:number], line[:cut]]), "\n" + "\n".join(lines[number + 1 :])
            yield before, line[cut:], after


def test_a_right_line_is_never_cut() -> None:
    for prefix, line, suffix in gaps(HELD_OUT):
        for mode in ("auto", "block", "line"):
            assert end(rules(prefix, suffix, mode), line) == (line, None)


def test_a_model_that_writes_on_is_stopped_where_the_suffix_resumes() -> None:
    found = [end(rules(prefix, suffix), line + suffix[:300])[0] == line for prefix, line, suffix in gaps(HELD_OUT)]
    assert len(found) > 200
    assert sum(found) >= 0.97 * len(found)


def test_a_bracket_in_a_very_long_line_is_found() -> None:
    prefix, more = "x = [" + "1, " * 4000, ", ".join(map(str, range(200)))
    assert end(rules(prefix, "]\n", language="javascript"), more + "];\n") == (more, "suffix")


@pytest.mark.parametrize(
    ("named", "path", "text", "language"),
    [
        ("python", None, "", "python"),
        ("C++", None, "", "cpp"),
        ("tsx", None, "", "typescriptreact"),
        (None, "src/Main.java", "", "java"),
        ("klingon", "a\\b.RS", "", "rust"),
        (None, None, "#!/bin/bash\nls", "shellscript"),
        (None, None, "import os\n\ndef f(x):\n", "python"),
        (None, None, "package main\n\nfunc f() {\n", "go"),
        (None, None, "#include <x>\nint main() {\n", "cpp"),
        (None, None, "a {\n  b;\n}\n", "c"),
        (None, None, "Dear reader", "other"),
    ],
)
def test_the_language(named: str | None, path: str | None, text: str, language: str) -> None:
    assert guess_language(named, path, text) == language


def test_json_round_trip_of_a_dictionary() -> None:
    """A JSON file ends like other bracketed text."""
    whole = json.dumps({"a": {"b": [1, {"c": 2}]}}, indent=1)
    at = whole.index("[") + 1
    assert end(rules(whole[:at], "", language="json"), whole[at:])[0].count("]") == 1
