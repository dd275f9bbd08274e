"""What a set of NetworkPolicies lets through, as the API's documentation defines it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.k8s.manifests import NAMESPACE, Doc


@dataclass(frozen=True)
class Pod:
    """Someone on the network, by what selectors can see."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = NAMESPACE
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def passes(policies: Iterable[Doc], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether both ends let it pass; a pod outside the namespace of the policies is under none of them."""
    policies = list(policies)
    return _open(policies, "Ingress", target, source, port, protocol) and _open(
        policies, "Egress", source, target, port, protocol
    )


def _open(policies: list[Doc], way: str, here: Pod, there: Pod, port: int, protocol: str) -> bool:
    if here.namespace != NAMESPACE:
        return True
    specs = [policy["spec"] for policy in policies]
    about = [spec for spec in specs if way in spec["policyTypes"] and _selects(spec["podSelector"], here.labels)]
    rules = [rule for spec in about for rule in spec.get(way.lower(), [])]
    return not about or any(_peers(rule, there) and _ports(rule, port, protocol) for rule in rules)


def _peers(rule: Doc, there: Pod) -> bool:
    peers = rule.get("from", rule.get("to"))
    return peers is None or any(_is(peer, there) for peer in peers)


def _is(peer: Doc, there: Pod) -> bool:
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": there.namespace, **there.namespace_labels}
        near = _selects(peer["namespaceSelector"], labels)
    else:
        near = there.namespace == NAMESPACE
    return near and _selects(peer.get("podSelector", {}), there.labels)


def _ports(rule: Doc, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return ports is None or {"protocol": protocol, "port": port} in ports


def _selects(selector: Doc, labels: Mapping[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "Exists" for each in expressions), "no other operator is used"
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items() and all(each["key"] in labels for each in expressions)
