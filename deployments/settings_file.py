"""The YAML file of settings."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from deployments.spelling import did_you_mean
from model.config import ConfigError


def read_yaml(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The settings by their names, which are written with dashes or underscores. Raises ConfigError.

    known: names of all that there are.
    """
    try:
        data = yaml.safe_load(path.expanduser().read_text())
    except OSError as error:
        raise ConfigError(f"settings file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {path} is not YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"settings file {path} must hold names and values, not a {type(data).__name__}")
    values = {str(name).replace("-", "_"): value for name, value in data.items()}
    for name in values:
        if name == "config" or name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"settings file {path}: unknown setting {name!r}{hint}")
    return values
