"""What a proxy must know of the settings: it is given none, so the environment that Ray starts in has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_settings import BaseSettings, SettingsConfigDict

from deployments.certificate import AbsolutePath, Certificate
from deployments.cluster.front_settings import LIMITS, FrontSettings
from deployments.limits import ApiLimits
from deployments.variables import ENV_PREFIX, NESTED
from monitoring.logs import LogFormat, LogLevel

if TYPE_CHECKING:
    from deployments.settings import Settings

_SETTINGS = (
    *("metrics_dir", "log_level", "log_format", "log_file", "served_model_name"),
    *("host", "ssl_certfile", "ssl_keyfile"),
)

VARIABLES = tuple(ENV_PREFIX + name.upper() for name in (*(f"api{NESTED}{limit}" for limit in LIMITS), *_SETTINGS))
"""Of the environment, that a proxy reads."""


class ProxySettings(BaseSettings):
    """The settings that a proxy keeps to, by their own names. Without a model's name it counts nothing."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=NESTED, env_ignore_empty=True, extra="ignore"
    )

    api: ApiLimits = ApiLimits()
    served_model_name: str | None = None
    metrics_dir: Path | None = None
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    log_file: Path | None = None
    log_text: bool = False
    host: str | None = None
    ssl_certfile: AbsolutePath | None = None
    ssl_keyfile: AbsolutePath | None = None

    @property
    def front(self) -> FrontSettings:
        """What HAProxy needs. Raises ValueError for half a certificate."""
        certificate, limits = self.certificate, {name: getattr(self.api, name) for name in LIMITS}
        files = (None, None) if certificate is None else (certificate.chain, certificate.key)
        return FrontSettings(self.host, *files, **limits)

    @property
    def certificate(self) -> Certificate | None:
        return Certificate.of(self.ssl_certfile, self.ssl_keyfile)


def variables(settings: Settings) -> dict[str, str]:
    """Those of VARIABLES that have a value."""
    named = settings.model_copy(update={"served_model_name": settings.model_id})
    said = [getattr(named.api, name) for name in LIMITS] + [getattr(named, name) for name in _SETTINGS]
    return {name: str(value) for name, value in zip(VARIABLES, said, strict=True) if value is not None}
