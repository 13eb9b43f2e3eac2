"""Whether work is linear in a text: texts that nobody writes, and the processor's time for them at two lengths."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable

from benchmarks.server.hostile_bodies import MINIFIED

PIECES = {
    "a letter": "a",
    "words": "ab ",
    "spaces": " ",
    "tabs": "\t",
    "line feeds": "\n",
    "DOS line ends": "\r\n",
    "blank lines": "\n \n\t",
    "no-break spaces": "\u00a0",
    "combining characters": "e\u0301",
    "emoji": "\U0001f600",
    "opening braces": "{",
    "opening brackets": "([{",
    "closing braces": "}",
    "brackets that close nothing": "(([",
    "pairs": "{}",
    "slashes": "/",
    "divisions": "a / b ",
    "divisions of calls": ")/ ",
    "a class in each division": "1/[",
    "regular expressions": "=/[a/]b/g;",
    "keywords before slashes": "return /",
    "quotes": '"',
    "single quotes": "'",
    "backticks": "`",
    "three quotes": '"""',
    "backslashes": "\\",
    "escapes": "\\n",
    "strings": "'a\\'b'+\"c\"",
    "comments that begin": "/*",
    "comments that end": "*/",
    "comments in comments": "{- /* ",
    "dashes": "--",
    "hashes": "#",
    "minified code": MINIFIED,
    "base64": "QUJDRA+/",
    "short lines": "  a\n",
    "ends": "end\n",
    "definitions": "def f(",
    "declarations": "let a",
    "a class": "class a",
    "modifiers": "public a",
    "names of tokens": "<fim_prefix>",
    "half a name of a token": "<fim_",
    "colons": "a/b:",
}

_ENOUGH_S = 0.05
"""What takes no longer than that at the greater length needs no comparison."""

_GROWTH, _MOST = 4, 8
"""So much longer a text may take so many times as long: twice what is linear, half of what is quadratic."""


def text(kind: str, length: int, start: str = "", end: str = "") -> str:
    """`length` characters of one of `PIECES`."""
    piece = PIECES[kind]
    return start + (piece * (length // len(piece) + 1))[: length - len(start) - len(end)] + end


def seconds(call: Callable[[], object], tries: int = 1) -> float:
    """Of this thread's own time, the least of some tries; garbage of other tests is not looked for meanwhile."""
    found = []
    gc.disable()
    try:
        for _ in range(tries):
            began = time.thread_time()
            call()
            found.append(time.thread_time() - began)
    finally:
        gc.enable()
    return min(found)


def is_linear(call: Callable[[str], object], kind: str, length: int) -> bool:
    """Whether `call` takes a text of `length` in time linear in it, as far as the clock can tell.

    What seems to take too long is measured again: other work on the machine makes times longer, never shorter.
    """
    long, short = text(kind, length), text(kind, length // _GROWTH)
    taken = math.inf
    for tries in (1, 2, 4):
        taken = min(taken, seconds(lambda: call(long), tries))
        if taken <= _ENOUGH_S or taken <= _MOST * seconds(lambda: call(short), tries):
            return True
    return False
