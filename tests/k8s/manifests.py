"""What an overlay builds to, and the parts of it that more than one rule asks about."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = ("cpu", "dev", "gpu", "prod-gpu")
PRODUCTION = ("cpu", "gpu", "prod-gpu")
NAMESPACE = "nli"

Doc = dict[str, Any]


@dataclass(frozen=True)
class Manifests:
    """The documents of one overlay."""

    overlay: str
    docs: list[Doc]

    def of(self, kind: str) -> list[Doc]:
        return [doc for doc in self.docs if doc["kind"] == kind]

    def named(self, kind: str, name: str | None) -> Doc | None:
        return next((doc for doc in self.of(kind) if doc["metadata"]["name"] == name), None)

    @property
    def service(self) -> Doc:
        (service,) = self.of("RayService")
        return service

    @property
    def cluster(self) -> Doc:
        cluster: Doc = self.service["spec"]["rayClusterConfig"]
        return cluster

    @property
    def head(self) -> Doc:
        head: Doc = self.cluster["headGroupSpec"]
        return head

    @property
    def group(self) -> Doc:
        group: Doc = self.cluster["workerGroupSpecs"][0]
        return group

    @property
    def groups(self) -> dict[str, Doc]:
        return {"head": self.head, "worker": self.group}

    @property
    def containers(self) -> Iterator[tuple[str, Doc]]:
        """What holds `resources` and a `securityContext`: of the pods, and the autoscaler beside the head."""
        for name, group in self.groups.items():
            yield from ((f"{name} {each.get('name')}", each) for each in group["template"]["spec"]["containers"])
        yield "autoscaler", self.cluster.get("autoscalerOptions", {})

    @property
    def serve(self) -> Doc:
        data: Doc = json.loads(_parsed(self.service["spec"]["serveConfigV2"]))[0]
        return data

    @property
    def args(self) -> Doc:
        args: Doc = self.serve["applications"][0]["args"]
        return args

    @property
    def deployments(self) -> dict[str, Doc]:
        return {each["name"]: each for each in self.serve["applications"][0]["deployments"]}


class BuildFailed(Exception):
    """What kubectl says."""


def built(folder: Path) -> str:
    """What `kubectl apply -k` would send. Without kubectl: a failure in CI, elsewhere the test is skipped.

    Raises:
        BuildFailed: it is no sound kustomization.
    """
    if shutil.which("kubectl") is None:
        reason = "kubectl (1.27 or newer) is not on this machine, so the overlays cannot be built"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise BuildFailed(done.stderr)
    return done.stdout


@functools.cache
def _built(overlay: str) -> str:
    return built(ROOT / "k8s" / "overlays" / overlay)


def build(overlay: str) -> Manifests:
    """A copy of one's own."""
    return Manifests(overlay, json.loads(_parsed(_built(overlay))))


@functools.cache
def _parsed(text: str) -> str:
    """The documents as JSON, which is read some hundred times as fast."""
    return json.dumps(list(yaml.load_all(text, Loader=yaml.CSafeLoader)))


def replicas(deployment: Doc) -> tuple[int, int]:
    """The fewest and the most."""
    scaling = deployment.get("autoscaling_config")
    if scaling:
        return scaling["min_replicas"], scaling["max_replicas"]
    return deployment["num_replicas"], deployment["num_replicas"]


def amount(quantity: str | float) -> float:
    """Of Kubernetes: cores, or bytes."""
    text = str(quantity)
    for suffix, factor in {"m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


def supply(manifests: Manifests) -> tuple[float, float]:
    """CPUs and GPUs of one worker, as KubeRay tells Ray."""
    limits = manifests.group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return math.ceil(amount(limits["cpu"])), amount(limits.get("nvidia.com/gpu", 0))


def env(group: Doc) -> dict[str, str]:
    """Of Ray's container."""
    return {each["name"]: each.get("value", "") for each in group["template"]["spec"]["containers"][0].get("env", [])}
