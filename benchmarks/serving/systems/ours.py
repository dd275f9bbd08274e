"""nli-serve as users start it: `nli-serve up` with a config file, fast profile, limits counted and never reached."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.scheduler.front import NEVER
from benchmarks.serving.cells import Request
from benchmarks.serving.expected import BATCH_TOKENS, Answer
from benchmarks.serving.server import ROOT, Server
from clients.commands.profile import HAPROXY_PORTS
from tests.ports import free_port

LIMITS = {"caller": {"requests": NEVER, "pairs": NEVER, "max_concurrent": 1_024}}
DEADLINE = {"default_s": 600, "max_s": 600}


class Ours:
    """The shipped config, but for the model, the port, limits, deadline, and whether there is a cache."""

    def __init__(
        self, engine: str, precision: str, *, cache: bool = False, device: str = "cpu", replicas: int = 1
    ) -> None:
        """
        Args:
            replicas: of the Ingress and of the Classifier, which share the GPU.
        """
        self.name = f"nli-serve, {engine}-{precision}{', cache' if cache else ''}"
        self.precision, self._cache, self._replicas = precision, cache, replicas
        self._choice = {"engine": engine, "precision": precision, "device": device, "fallback": None, "revision": None}

    def config(self, model: Path, port: int) -> dict[str, Any]:
        """The file's content."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        config["http_options"]["port"] = port
        (application,) = config["applications"]
        application["args"] |= {"model": {"name": str(model), **self._choice}, "deadline": DEADLINE}
        ingress, classifier = application["deployments"]
        ingress["user_config"] = LIMITS
        if not self._cache:
            classifier["user_config"]["max_cache_bytes"] = 0
        ingress["num_replicas"] = classifier["num_replicas"] = self._replicas
        if self._choice["device"] == "cuda":
            classifier["user_config"]["max_batch_tokens"] = BATCH_TOKENS["cuda"]
            classifier["ray_actor_options"]["num_gpus"] = 1 / self._replicas
        return config

    def start(self, model: Path, scratch: Path) -> None:
        port = free_port()
        file = scratch / "ours.yaml"
        file.write_text(yaml.safe_dump(self.config(model, port)))
        self._temporary = tempfile.TemporaryDirectory(prefix="nb", ignore_cleanup_errors=True)
        env = {"RAY_TMPDIR": self._temporary.name, "XDG_STATE_HOME": str(scratch), "BENCH_FOLDER": str(scratch)}
        env |= {name: str(free_port()) for name in HAPROXY_PORTS}
        body = {"text": "ready?", "labels": ["yes", "no"]}
        self.server = Server(["-m", "clients.cli", "up", str(file)], env, port, "/v1/classify", body)

    def ask(self, request: Request) -> Answer:
        found = self.server.http.post("/v1/classify", {"text": request.texts, "labels": request.labels})
        by_label = (dict(zip(one["labels"], one["scores"], strict=True)) for one in found["results"])
        return [[scores[label] for label in request.labels] for scores in by_label]

    def stop(self) -> None:
        self.server.stop()
        self._temporary.cleanup()
