"""Who may talk to whom, as NetworkPolicies say it (networking.k8s.io/v1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A pod, by its labels and its namespace's, or with no labels an address outside of the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "starcoder"
    namespace_labels: dict[str, str] = field(default_factory=dict)
    address: str | None = None


def allowed(policies: Sequence[Manifest], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out of its source and into its target."""
    return _one_way(policies, "egress", source, target, port, protocol) and _one_way(
        policies, "ingress", target, source, port, protocol
    )


def _one_way(policies: Sequence[Manifest], direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
    kind = direction.capitalize()
    own = [
        policy["spec"]
        for policy in policies
        if pod.address is None
        and policy["metadata"]["namespace"] == pod.namespace
        and kind in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not own:  # nobody restricts this pod
        return True
    peers = "to" if direction == "egress" else "from"
    return any(
        _peer(rule.get(peers), other, pod.namespace) and _port(rule.get("ports"), port, protocol)
        for policy in own
        for rule in policy.get(direction, [])
    )


def _peer(peers: list[Manifest] | None, other: Peer, own_namespace: str) -> bool:
    return peers is None or any(_matches(peer, other, own_namespace) for peer in peers)


def _matches(peer: Manifest, other: Peer, own_namespace: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        if other.address is None:
            return False  # of pods, the labels count
        address = ipaddress.ip_address(other.address)
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(e) for e in block.get("except", []))
    if other.address is not None:
        return False
    if "namespaceSelector" in peer:
        names = {"kubernetes.io/metadata.name": other.namespace, **other.namespace_labels}
        if not selects(peer["namespaceSelector"], names):
            return False
    elif other.namespace != own_namespace:
        return False
    return selects(peer.get("podSelector", {}), other.labels)


def _port(ports: list[Manifest] | None, port: int, protocol: str) -> bool:
    return ports is None or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports)


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """A LabelSelector on labels. Raises ValueError for an operator that our manifests do not use."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise ValueError(f"operator {expression['operator']}")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
