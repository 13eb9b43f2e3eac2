"""What servers over TLS share."""

from __future__ import annotations

from tests.support.over_tls import certificate  # noqa: F401
