"""What must hold of every overlay and no schema says.

Each rule is a function from the manifests to what is wrong, one sentence each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.k8s.manifests import Manifests

from . import access, operator, uptime

Rule = Callable[[Manifests], Iterator[str]]

RULES: tuple[Rule, ...] = (*operator.RULES, *uptime.RULES, *access.RULES)
