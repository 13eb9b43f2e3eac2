"""Settings in the environment: `STARCODER_MAX_NUM_SEQS`, and `STARCODER_API__MAX_FAN_OUT` of one within another."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from deployments.spelling import did_you_mean
from model.config import ConfigError

ENV_PREFIX = "STARCODER_"
NESTED = "__"
CLIENT_VARIABLES = ("url", "admin_key", "api_key")  # of commands that speak to a server

# Kubernetes adds these to every pod for a Service that is called "starcoder" or "starcoder-...".
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?$")


def check_environment(environment: Mapping[str, str], settings: Collection[str]) -> None:
    """Raise ConfigError on a `STARCODER_*` variable that is no setting, rather than ignore a typing error.

    settings: names of all that there are.
    """
    for variable, value in environment.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name == "port" and "://" in value:
            raise ConfigError(
                f"{variable}={value} comes from a Kubernetes Service called 'starcoder': set "
                "enableServiceLinks: false in the pod, or call the Service something else"
            )
        nested = name.startswith((f"api{NESTED}", f"teams{NESTED}"))
        known = nested or name in settings or name in CLIENT_VARIABLES
        if not known and not _SERVICE_LINK.search(variable):
            hint = did_you_mean(name, settings)
            raise ConfigError(f"environment variable {variable} is no setting{hint}")
