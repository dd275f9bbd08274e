"""The shape of the manifests: every key known, every value of its type.

Core kinds, and the pods inside the RayService, by the schemas of Kubernetes that kubernetes-validate brings, strict, at
the oldest and the newest supported version. KubeRay's and the Gateway API's kinds by their CRDs, if CRD_DIR
names the folder with them, closed: an unknown key is refused, which the API server would only drop. And
always by a list of keys written by hand.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from kubernetes_validate import utils

from tests.k8s.manifests import Doc, Manifests

VERSIONS = ("1.29", "1.37")  # CEL rules in CRDs are final since 1.29; 1.37 is the newest schema there is
CRDS = {"RayService": "ray.io_rayservices", "HTTPRoute": "gateway.networking.k8s.io_httproutes"}

# Of the RayService, by where they stand; what a pod template holds is left to the schema of a Pod.
METADATA = {"name", "namespace", "labels", "annotations"}
KEYS = {
    (): {"apiVersion", "kind", "metadata", "spec"},
    ("metadata",): METADATA,
    ("spec",): {
        "excludeHeadPodFromServeSvc",
        "rayClusterConfig",
        "rayClusterDeletionDelaySeconds",
        "serveConfigV2",
        "upgradeStrategy",
    },
    ("spec", "upgradeStrategy"): {"type"},
    ("spec", "rayClusterConfig"): {
        "authOptions",
        "autoscalerOptions",
        "enableInTreeAutoscaling",
        "gcsFaultToleranceOptions",
        "headGroupSpec",
        "rayVersion",
        "workerGroupSpecs",
    },
    ("spec", "rayClusterConfig", "authOptions"): {"mode", "secretName"},
    ("spec", "rayClusterConfig", "autoscalerOptions"): {
        "idleTimeoutSeconds",
        "imagePullPolicy",
        "resources",
        "securityContext",
        "version",
    },
    ("spec", "rayClusterConfig", "gcsFaultToleranceOptions"): {"redisAddress", "redisPassword"},
    ("spec", "rayClusterConfig", "headGroupSpec"): {"rayStartParams", "serviceType", "template"},
    ("spec", "rayClusterConfig", "workerGroupSpecs", "*"): {
        "groupName",
        "maxReplicas",
        "minReplicas",
        "rayStartParams",
        "template",
    },
}
PARAMS = {"num-cpus", "object-store-memory"}  # of `ray start`, which CRDs take for any strings

utils.schema_contents = functools.cache(utils.schema_contents)  # it reads 1.5 MB for each document


def crd_folder() -> Path | None:
    named = os.environ.get("CRD_DIR")
    return Path(named) if named else None


def misshapen(manifests: Manifests, crds: Path | None) -> Iterator[str]:
    """What a schema says against it."""
    yield from unknown_keys(manifests)
    for name, group in manifests.groups.items():
        template = {"metadata": {}, "spec": {}} | group.get("template", {})
        metadata = {"name": name, **template["metadata"]}
        yield from _core({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    for doc in manifests.docs:
        if doc["kind"] not in CRDS:
            yield from _core(doc)
        elif crds:
            yield from _custom(doc, crds)


def unknown_keys(manifests: Manifests) -> Iterator[str]:
    """The part that needs no schema."""
    for path, allowed in KEYS.items():
        for holder in _at(manifests.service, path):
            yield from (f"{'.'.join(path)}.{key}: unknown key" for key in holder.keys() - allowed)
    for name, group in manifests.groups.items():
        yield from (f"{name}: {key} is no parameter of ray start" for key in group["rayStartParams"].keys() - PARAMS)


def _at(holder: Any, path: tuple[str, ...]) -> Iterator[Doc]:
    if not path:
        yield holder
    elif path[0] == "*":
        for entry in holder:
            yield from _at(entry, path[1:])
    elif path[0] in holder:
        yield from _at(holder[path[0]], path[1:])


def _core(doc: Doc) -> Iterator[str]:
    return iter(_core_of(json.dumps(doc, sort_keys=True)))


@functools.cache
def _core_of(text: str) -> tuple[str, ...]:
    """By the text, as most documents are the same in every overlay."""
    doc = json.loads(text)
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(doc, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            found.append(f"{doc['kind']} {where}: {error.message} (Kubernetes {version})")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(error.message)
    return tuple(found)


def _custom(doc: Doc, crds: Path) -> Iterator[str]:
    for error in _validator(crds / f"{CRDS[doc['kind']]}.v1.min.json").iter_errors(doc):
        yield f"{doc['kind']} {error.json_path}: {error.message}"


@functools.cache
def _validator(file: Path) -> Draft202012Validator:
    return Draft202012Validator(_closed(json.loads(file.read_text())["openAPIV3Schema"]))


def _closed(schema: Any) -> Any:
    """The same, without room for what it does not name; `metadata` it leaves to Kubernetes."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    if schema.get("properties", {}).get("metadata") == {"type": "object"}:
        closed["properties"]["metadata"] = {"type": "object", "propertyNames": {"enum": sorted(METADATA)}}
    return closed
