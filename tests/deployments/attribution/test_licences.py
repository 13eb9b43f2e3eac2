"""Whose licence a file is under, by what it says, what its package says, and what stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.attribution.licences import Licences


def licence(file: Path, top: Path, given: str | None = None) -> str | None:
    return Licences(top, given).of(file, file.read_text())


LICENCES = {
    "Apache License\n   Version 2.0, January 2004": "Apache-2.0",
    "GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007": "GPL-3.0",
    "GNU LESSER GENERAL PUBLIC LICENSE\n  Version 2.1, February 1999": "LGPL-2.1",
    "Redistribution and use in source and binary forms ... Neither the name of": "BSD-3-Clause",
    "Redistribution and use in source and binary forms": "BSD-2-Clause",
    "All rights reserved": None,
}


@pytest.mark.parametrize("text", LICENCES)
def test_a_licence_is_known_by_its_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "COPYING.txt").write_text(text)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.py").write_text("x = 1")
    assert licence(tmp_path / "deep" / "x.py", tmp_path) == LICENCES[text]


def test_the_nearer_word_of_a_licence_holds(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "LICENCE").write_text("Permission is hereby granted, free of charge, to any person obtaining a copy")
    file = inner / "x.py"
    file.write_text("x = 1\n")
    assert licence(file, tmp_path) == "MIT"
    assert licence(file, tmp_path, given="ours") == "ours"
    file.write_text("# SPDX-License-Identifier: ISC OR MIT\nx = 1\n")
    assert licence(file, tmp_path) == "ISC OR MIT"


FREE = "free software: you can redistribute it under the terms of the GNU"
AS_PUBLISHED = "as published by\n{0} the Free Software Foundation, either version"
HEADS = {
    '#!/bin/env python\n#\n# Licensed under the Apache License,\n# Version 2.0 (the "License");\nx = 1\n': "Apache-2.0",
    f"/* {FREE}\n * General Public License {AS_PUBLISHED.format(' *')} 3 of it, or later. */\nint x;": "GPL-3.0",
    f"// {FREE} Lesser General\n// Public License {AS_PUBLISHED.format('//')} 2.1 of it\nint x;": "LGPL-2.1",
    f"-- {FREE} Library General\n-- Public License {AS_PUBLISHED.format('--')} 2\nx = 1": "LGPL-2.0",
    "\n<!-- Permission is hereby granted, free of charge,\n  to any person obtaining a copy -->\n<html>": "MIT",
    '"""One line."""\n# Licensed under the Apache License, Version 2.0\n': "Apache-2.0",
    'r"""More\nlines.\n"""\n\n# Licensed under the Apache License, Version 2.0\n': "Apache-2.0",
    "# A tool\nx = 1\n# Licensed under the Apache License, Version 2.0\n": "ours",
    'x = "Apache License, Version 2.0"\n': "ours",
    "rem A batch file\nREM Licensed under the Apache License, Version 2.0\n": "Apache-2.0",
    "dnl Licensed under the Apache License,\ndnl Version 2.0\n": "ours",
    "# Permission is hereby granted, free of charge, to any person\n# obtaining a copy; not the Apache License,\n"
    "# Version 2.0\n": "MIT",
    "# Licensed under the Apache License, Version 2.0; and\n# permission is hereby granted, free of charge, to any\n"
    "# person obtaining a copy\n": "Apache-2.0",
    "/* ours */ int x = 1;\nconst char *y = 0;\n// Apache License, Version 2.0": "ours",
    "": "ours",
}


@pytest.mark.parametrize("text", HEADS)
def test_a_file_that_names_its_licence_at_its_head_is_believed(text: str, tmp_path: Path) -> None:
    """Vendored files stand below another's licence; words further down are what the file works with."""
    (tmp_path / "LICENSE").write_text("This is free and unencumbered software released into the public domain")
    file = tmp_path / "x"
    file.write_text(text)
    expected = HEADS[text]
    assert licence(file, tmp_path) == ("Unlicense" if expected == "ours" else expected)


def test_installed_packages_say_their_licence(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "x.py").write_text("x = 1\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    info = tmp_path / "tool-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: tool\nVersion: 1\nLicense-Expression: BSD-3-Clause\n")
    (info / "RECORD").write_text("tool/x.py,,\n")
    assert licence(tmp_path / "tool" / "x.py", tmp_path) == "BSD-3-Clause"
    assert licence(tmp_path / "other.py", tmp_path) is None


@pytest.mark.parametrize("broken", ["METADATA", "RECORD"])
def test_packages_that_cannot_be_read_say_nothing(broken: str, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    (tmp_path / "thing.py").write_text("x = 1\n")
    about = tmp_path / "thing-1.0.dist-info"
    about.mkdir()
    for name, content in (("METADATA", b"Name: thing\nLicense: MIT\n"), ("RECORD", b"thing.py,,\n")):
        (about / name).write_bytes(content + b"\xff" * (name == broken))
    assert Licences(tmp_path).of(tmp_path / "thing.py", "x = 1\n") == "Apache-2.0"


def test_what_is_no_licence_file_says_nothing_of_others(tmp_path: Path) -> None:
    """A directory of licences is none, nor is code that works with them; one of unknown words hides no other."""
    (tmp_path / "LICENSE.d").mkdir()
    (tmp_path / "apache.py").write_text("x = 1\ny = 'Apache License, Version 2.0'\n")
    file = tmp_path / "x.py"
    file.write_text("x = 1\n")
    assert licence(file, tmp_path) is None
    (tmp_path / "COPYING").write_text("All rights reserved")
    (tmp_path / "UNLICENSE.txt").write_bytes(
        b"\xa9 1999. This is free and unencumbered software released into the public domain"
    )
    assert licence(file, tmp_path) == "Unlicense"


def test_no_licence_above_the_directory_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    top = tmp_path / "library"
    top.mkdir()
    (top / "x.py").write_text("x = 1\n")
    assert licence(top / "x.py", top) is None
    assert licence(top / "x.py", tmp_path) == "Apache-2.0"


def test_a_package_whose_files_nobody_lists_says_nothing(tmp_path: Path) -> None:
    about = tmp_path / "thing-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: thing\nLicense: MIT\n")
    (tmp_path / "thing.py").write_text("x = 1\n")
    assert licence(tmp_path / "thing.py", tmp_path) is None
