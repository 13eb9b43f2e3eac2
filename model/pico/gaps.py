"""Forty everyday gaps and starts, as a programmer types them to see what a model is worth, and what is expected there.

`model.pico.evaluate` notes what a checkpoint answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from model.pico.fim import Encode, prompt


@dataclass(frozen=True)
class Gap:
    """prefix and suffix stand around the cursor. expected: a pattern for how the answer begins."""

    prefix: str
    expected: str
    suffix: str = ""

    def prompt(self, encode: Encode, spm: bool) -> list[int]:
        """The ids that ask for the middle."""
        return prompt(encode(self.prefix), encode(self.suffix), spm)


STACK = "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n        "
METHOD = "\n    def name(self):\n        return 1\n"
POP = "\n\n    def pop(self):\n        return self._items.pop()\n"

GAPS = (
    # nothing behind the cursor, as in a file that is being written
    Gap("for i in ran", r"ge\("),
    Gap("if __name__ == ", r"[\"']__main__[\"']:"),
    Gap("with open(path) as ", r"(f|fp|fh|file|handle|stream|fd|fin|infile|source)\w*:"),
    Gap("def add(a, b):\n    return a ", r"\+ b\b"),
    Gap("class Dog:\n    def __init__(self", r"(, \w+[^)]*)?\)( -> None)?:"),
    Gap("import numpy as ", r"np\b"),
    Gap("import pandas as ", r"pd\b"),
    Gap("from typing import ", r"[A-Z]\w+(, [A-Z]\w+)*|\(|overload|cast"),
    Gap("from pathlib import ", r"Path\b"),
    Gap("from collections import ", r"(defaultdict|OrderedDict|deque|Counter|namedtuple|abc|ChainMap)\b"),
    Gap("import os\nimport sys\n\npath = os.path.", r"(join|dirname|abspath|basename|realpath|expanduser|normpath)\("),
    Gap("import logging\n\nlogger = logging.", r"getLogger\(__name__\)"),
    Gap("try:\n    value = int(text)\nexcept ", r"\(?(ValueError|TypeError|Exception)\b"),
    Gap("def is_even(n):\n    return n % ", r"2 == 0"),
    Gap("def factorial(n):\n    if n == 0:\n        return ", r"1\b"),
    Gap("numbers = [1, 2, 3]\nfor number in ", r"numbers:"),
    Gap("names = []\nnames.", r"(append|extend|insert)\("),
    Gap("for key, value in data.", r"items\(\)(:|\))"),
    Gap("while Tr", r"ue:"),
    Gap("def main():\n    parser = argparse.", r"ArgumentParser\("),
    Gap("    @prop", r"erty"),
    Gap("    def __repr__(self):\n        return ", r"f?[\"'(]|self|repr|str|\w+\("),
    Gap("from dataclasses import dataclass\n\n\n@data", r"class"),
    Gap("if value is not No", r"ne\b"),
    Gap("class Cat(Animal):\n    def __init__(self, name):\n        super().", r"__init__\("),
    Gap("import json\n\nwith open('config.json') as f:\n    config = json.", r"loads?\("),
    # a text behind the cursor, as when an old line is changed
    Gap("for key, value in data.", r"items$", "():\n    print(key, value)\n"),
    Gap("def f(*args, **", r"kwargs$", "):\n    return g(*args, **kwargs)\n"),
    Gap("def greet(user_name):\n    print(user_", r"name$", ")\n"),
    Gap("    @", r"property$|staticmethod$|classmethod$|\w*cached_property$", METHOD),
    Gap("try:\n    value = int(text)\nexcept Value", r"Error$", ":\n    value = 0\n"),
    Gap(STACK, r"self\._items\.(append\(item\)|insert\()", POP),
    Gap("def area(width, height):\n    ", r"return width \* height", "\n\nprint(area(2, 3))\n"),
    Gap("total = 0\nfor price in prices:\n    ", r"total (\+= price|= total \+ price)", "\nprint(total)\n"),
    Gap("import ", r"re\b|re$", "\n\npattern = re.compile(r'\\d+')\n"),
    Gap("if x > 0:\n    sign = 1\n", r"el(se:|if )", "\n    sign = -1\n"),
    Gap("from pathlib import ", r"Path$", '\n\nroot = Path(".")\n'),
    Gap("with open(path, encoding=", r"[\"']utf-?8[\"']", ") as f:\n    text = f.read()\n"),
    Gap("result = []\nfor item in items:\n    ", r"(if .*:|result\.append\()", "\nreturn result\n"),
    Gap("def __eq__(self, other):\n    return ", r".*other\b", "\n\ndef __hash__(self):\n    return hash(self.name)\n"),
)


def right(gap: Gap, answer: str) -> bool:
    """Whether the first line that an answer writes begins as is expected ("$" in a pattern: is that and no more)."""
    return re.match(gap.expected, answer.split("\n")[0].rstrip()) is not None
