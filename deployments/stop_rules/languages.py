"""Programming languages as the stop rules know them: how blocks are written, what comments and strings look like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

BlockStyle = Literal["indentation", "brackets", "keywords"]
"""keywords: indented blocks that a word such as `end` closes."""


@dataclass(frozen=True)
class Language:
    """blocks: what closes a block.

    line_comments: what begins a comment that ends with its line.
    block_comments: what begins and what ends a longer one; nested: they nest.
    strings: what begins and ends a string that ends with its line; long_strings: one that does not.
    characters: a single quote opens a character of one letter or escape; elsewhere it is a lifetime or the like.
    regexes: a slash where a value is due opens a regular expression.
    openers: what begins a line that opens a block, and closers, what closes it, where `blocks` is `keywords`;
    continuations: words that go on with the statement whose block they close.
    """

    name: str
    blocks: BlockStyle
    line_comments: tuple[str, ...] = ()
    block_comments: tuple[tuple[str, str], ...] = ()
    strings: tuple[str, ...] = ('"', "'")
    long_strings: tuple[tuple[str, str], ...] = ()
    nested: bool = False
    characters: bool = False
    regexes: bool = False
    openers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    continuations: tuple[str, ...] = ()


_C_COMMENTS = (("/*", "*/"),)
_SLASHES = ("//",)
_BACKTICK = (("`", "`"),)
_PYTHON_STRINGS = (('"""', '"""'), ("'''", "'''"))
_OPENERS = (
    *("def", "class", "module", "if", "unless", "while", "until", "for", "begin", "case", "function", "local function"),
    *(
        "let",
        "struct",
        "macro",
        "do",
        "repeat",
        "defmodule",
        "defp",
        "try",
        "quote",
        "mutable struct",
        "cond",
        "select",
    ),
)


def _braces(name: str, **rest: object) -> Language:
    options: dict[str, object] = {"line_comments": _SLASHES, "block_comments": _C_COMMENTS, "characters": True} | rest
    return Language(name, "brackets", **options)  # type: ignore[arg-type]


_LANGUAGES = (
    Language(
        "python",
        "indentation",
        ("#",),
        long_strings=_PYTHON_STRINGS,
        continuations=("else", "elif", "except", "finally", "case"),
    ),
    Language("yaml", "indentation", ("#",)),
    Language("other", "indentation", strings=()),
    Language("markdown", "indentation", strings=()),
    Language("haskell", "indentation", ("--",), (("{-", "-}"),), strings=('"',), nested=True),
    Language(
        "ruby",
        "keywords",
        ("#",),
        openers=_OPENERS,
        closers=("end",),
        continuations=("else", "elsif", "rescue", "ensure", "when"),
    ),
    Language(
        "lua",
        "keywords",
        ("--",),
        (("--[[", "]]"),),
        long_strings=(("[[", "]]"),),
        openers=_OPENERS,
        closers=("end", "until"),
        continuations=("else", "elseif"),
    ),
    Language(
        "julia",
        "keywords",
        ("#",),
        (("#=", "=#"),),
        strings=('"',),
        long_strings=(('"""', '"""'),),
        openers=_OPENERS,
        closers=("end",),
        continuations=("else", "elseif", "catch", "finally"),
    ),
    Language(
        "elixir",
        "keywords",
        ("#",),
        long_strings=(('"""', '"""'),),
        openers=_OPENERS,
        closers=("end",),
        continuations=("else", "rescue", "catch", "after"),
    ),
    Language(
        "shellscript",
        "keywords",
        ("#",),
        strings=(),
        long_strings=(('"', '"'), ("'", "'")),
        openers=_OPENERS,
        closers=("fi", "done", "esac", "}"),
        continuations=("else", "elif"),
    ),
    _braces("c"),
    _braces("cpp"),
    _braces("csharp", long_strings=(('"""', '"""'),)),
    _braces("java", long_strings=(('"""', '"""'),)),
    _braces("kotlin", long_strings=(('"""', '"""'),), nested=True),
    _braces("scala", long_strings=(('"""', '"""'),), nested=True),
    _braces("swift", long_strings=(('"""', '"""'),), strings=('"',), characters=False, nested=True),
    _braces("rust", strings=("'",), long_strings=(('"', '"'),), nested=True),
    _braces("go", long_strings=_BACKTICK),
    _braces("javascript", long_strings=_BACKTICK, characters=False, regexes=True),
    _braces("javascriptreact", long_strings=_BACKTICK, characters=False, regexes=True),
    _braces("typescript", long_strings=_BACKTICK, characters=False, regexes=True),
    _braces("typescriptreact", long_strings=_BACKTICK, characters=False, regexes=True),
    _braces("dart", long_strings=(*_PYTHON_STRINGS,), characters=False),
    _braces("php", line_comments=("//", "#"), strings=(), long_strings=(('"', '"'), ("'", "'")), characters=False),
    _braces("perl", line_comments=("#",), block_comments=(), characters=False),
    _braces("r", line_comments=("#",), block_comments=(), long_strings=_BACKTICK, characters=False),
    _braces("css", line_comments=(), characters=False),
    _braces("json", line_comments=(), block_comments=(), strings=('"',), characters=False),
    _braces("sql", line_comments=("--",), characters=False),
    _braces(
        "clojure", line_comments=(";",), block_comments=(), strings=(), long_strings=(('"', '"'),), characters=False
    ),
)
LANGUAGES = {language.name: language for language in _LANGUAGES}

_SUFFIXES_OF = {
    "python": "py pyi pyx",
    "yaml": "yaml yml",
    "other": "txt rst",
    "markdown": "md",
    "haskell": "hs",
    "ruby": "rb",
    "lua": "lua",
    "julia": "jl",
    "elixir": "ex exs",
    "shellscript": "sh bash zsh",
    "c": "c h m",
    "cpp": "cc cpp cxx hpp hh cu",
    "csharp": "cs",
    "java": "java groovy",
    "kotlin": "kt kts",
    "scala": "scala",
    "swift": "swift",
    "rust": "rs",
    "go": "go",
    "javascript": "js mjs cjs",
    "javascriptreact": "jsx",
    "typescript": "ts mts",
    "typescriptreact": "tsx",
    "dart": "dart",
    "php": "php",
    "perl": "pl pm",
    "r": "r",
    "css": "css scss less",
    "json": "json jsonc",
    "sql": "sql",
    "clojure": "clj",
}
_BY_SUFFIX = {suffix: name for name, suffixes in _SUFFIXES_OF.items() for suffix in suffixes.split()}
_OTHER_NAMES = {
    "c++": "cpp",
    "c#": "csharp",
    "objective-c": "c",
    "golang": "go",
    "shell": "shellscript",
    "python3": "python",
}
_GUESS_CHARACTERS = 8_192
# What is blank at a line's start ends with the line: `^\s*` would read a run of blank lines from each of them.
_GUESSES = (
    (
        "python",
        re.compile(
            r"^[^\S\n]*(?:(?:async )?def \w+\(.*|class \w.*|elif .*|except\b.*):\s*$"
            r"|^(?:from [\w.]+ )?import \w+\s*$",
            re.M,
        ),
    ),
    ("go", re.compile(r"^package \w+\s*$|^func [\w(]|:= ", re.M)),
    ("rust", re.compile(r"^[^\S\n]*(?:pub )?(?:fn \w+|impl\b|use \w+::)|\blet mut ", re.M)),
    (
        "java",
        re.compile(r"^[^\S\n]*(?:public|private|protected) [\w<>\[\] ]+[({]|^import [\w.]+;|^package [\w.]+;", re.M),
    ),
    ("cpp", re.compile(r"^[^\S\n]*#include\b|\bstd::|^using namespace ", re.M)),
    ("typescript", re.compile(r"\b(?:const|let|var) \w+ ?(?::|=)|=> ?[{(]|\bfunction\b ?\w*\(", re.M)),
    ("ruby", re.compile(r"^[^\S\n]*(?:end|require ['\"].*|def \w+[?!]?(?:\(.*\))?)\s*$", re.M)),
)


def language_of(path: str) -> str | None:
    """The key of `LANGUAGES` by the end of a file's name; None where it tells nothing."""
    return _BY_SUFFIX.get(path.rpartition(".")[2].lower())


def guess_language(named: str | None, path: str | None, text: str) -> str:
    """The key of `LANGUAGES` that the request names, else its path's, else what most lines of the text look like."""
    if named is not None:
        name = named.strip().lower()
        name = _OTHER_NAMES.get(name) or _BY_SUFFIX.get(name, name)
        if name in LANGUAGES and name != "other":
            return name
    if path is not None and (found := language_of(path)):
        return found
    text = text[:_GUESS_CHARACTERS]
    first = text.split("\n", 1)[0]
    if first.startswith("#!"):
        for word, name in (("python", "python"), ("sh", "shellscript"), ("node", "javascript"), ("ruby", "ruby")):
            if word in first:
                return name
    hits = {name: len(pattern.findall(text)) for name, pattern in _GUESSES}
    best = max(hits, key=lambda name: hits[name])
    if hits[best]:
        return best
    lines = [line.rstrip() for line in text.split("\n")]
    braces = sum(line.endswith(("{", "}", ";", "});")) for line in lines)
    return "c" if braces > sum(line.endswith(":") for line in lines) else "other"
