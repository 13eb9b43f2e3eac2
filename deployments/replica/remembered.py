"""What is known of sessions: where there is no room for all, who has most loses what it has not used for longest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """So many values at most, each of a tenant's key; in order of use.

    So a flood of one tenant's made-up keys drives out its own, as soon as it has more than anybody else.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[tuple[str, Hashable], Value] = OrderedDict()
        self._keys: OrderedDict[str, OrderedDict[Hashable, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, tenant: str, key: Hashable) -> Value | None:
        """That is no use of it."""
        return self._values.get((tenant, key))

    def use(self, tenant: str, key: Hashable, value: Value) -> None:
        """Keep it as the one that was used last."""
        self._values[tenant, key] = value
        self._values.move_to_end((tenant, key))
        keys = self._keys.setdefault(tenant, OrderedDict())
        keys[key] = None
        keys.move_to_end(key)
        self._keys.move_to_end(tenant)
        if len(self._values) > self._capacity:
            most = max(self._keys, key=lambda name: len(self._keys[name]))
            self.forget(most, next(iter(self._keys[most])))

    def forget(self, tenant: str, key: Hashable) -> None:
        """Raises KeyError where it is not known."""
        del self._values[tenant, key]
        del self._keys[tenant][key]
        if not self._keys[tenant]:
            del self._keys[tenant]

    def oldest(self) -> tuple[str, Hashable, Value] | None:
        """Tenant, key and value that have not been used for longest, whosever they are."""
        for (tenant, key), value in self._values.items():
            return tenant, key, value
        return None
