"""The problems of a benchmark, from a package that ships them or from a folder that is named."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.protocols.protocol import Problem, Protocol


@dataclass(frozen=True)
class Data:
    """sha256: of the file. published: as far as its hash or its size tells, published figures are of it."""

    problems: list[Problem]
    sha256: str
    published: bool


def load(protocol: Protocol, directory: Path | None, group: str | None) -> Data:
    """Raises ValueError where there is no data, or data of another form."""
    path = find(protocol, directory, group)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        problems = protocol.problems(rows(gzip.decompress(content) if path.suffix == ".gz" else content))
    except (KeyError, TypeError, json.JSONDecodeError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no data of {protocol.title}: {type(error).__name__}: {error}") from error
    if not problems:
        raise ValueError(f"{path.name} has no problems of {protocol.title}")
    if len({problem.id for problem in problems}) < len(problems):
        raise ValueError(f"{path.name} has two problems of one name")
    known = sha256 == protocol.sha256 if protocol.sha256 else protocol.size in (None, len(problems))
    return Data(problems, sha256, known)


def find(protocol: Protocol, directory: Path | None, group: str | None) -> Path:
    if protocol.groups and group is None:
        raise ValueError(f"{protocol.name} has data for each of {', '.join(protocol.groups)}: --group says which")
    if not protocol.groups and group is not None:
        raise ValueError(f"{protocol.name} has one set of data: --group is for others")
    names = [name.format(group=group) for name in protocol.files]
    if directory is None:
        directory = packaged(protocol)
    for name in names:
        if (path := directory / name).is_file():
            return path
    raise ValueError(f"no data of {protocol.title} in {directory}: it is called {' or '.join(names)}")


def packaged(protocol: Protocol) -> Path:
    """Where its package has it; no code of the package is run."""
    if protocol.package is None:
        raise ValueError(
            f"no package ships the data of {protocol.title}: --data names a folder with {protocol.files[0]}"
        )
    spec = importlib.util.find_spec(protocol.package)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the data of {protocol.title} comes with the package {protocol.package.replace('_', '-')}, "
            "which is not installed: pip install --editable '.[eval]', or --data"
        )
    return Path(spec.origin).parent / "data"


def rows(content: bytes) -> list[dict[str, Any]]:
    """Of JSON lines, or of one list."""
    text = content.decode("utf-8")
    if text.lstrip().startswith("["):
        found: list[dict[str, Any]] = json.loads(text)
        return found
    return [json.loads(line) for line in text.split("\n") if line.strip()]
