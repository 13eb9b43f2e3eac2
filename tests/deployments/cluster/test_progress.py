"""How far a replica has loaded, as whoever waits for it reads it."""

from __future__ import annotations

import pytest

from deployments.cluster import progress


def test_the_newest_report_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store: dict[bytes, bytes] = {}

    def put(key: bytes, value: bytes, overwrite: bool) -> None:
        if overwrite:
            store[key] = value
        store.setdefault(key, value)

    monkeypatch.setattr(progress, "_internal_kv_put", put)
    monkeypatch.setattr(progress, "_internal_kv_get", store.get)
    monkeypatch.setattr(progress, "_internal_kv_del", store.pop)
    assert progress.read() is None
    for share, read in ((0.0, 0.0), (0.12345, 0.123), (1.0, 1.0)):
        progress.report(share)
        assert progress.read() == read
    progress.clear()
    assert progress.read() is None
    assert store == {}
