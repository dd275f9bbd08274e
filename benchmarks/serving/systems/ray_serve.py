"""The plain Ray Serve graph, under `serve run` with Serve's own proxy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from benchmarks.serving.cells import Request
from benchmarks.serving.expected import Answer
from benchmarks.serving.server import Server
from benchmarks.serving.systems.pipeline import Setting
from tests.ports import free_port


class RayServe:
    """With the pipeline's best setting."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name, self._setting, self.precision = name, setting, setting.precision

    def start(self, model: Path, scratch: Path) -> None:
        port, file = free_port(), scratch / "plain.yaml"
        args = {"model": str(model), "setting": self._setting._asdict()}
        application = {"name": "plain", "import_path": "benchmarks.serving.systems.serve_graph:build", "args": args}
        config = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
        file.write_text(yaml.safe_dump(config))
        self._temporary = tempfile.TemporaryDirectory(prefix="nb", ignore_cleanup_errors=True)
        env = {"RAY_TMPDIR": self._temporary.name, "BENCH_FOLDER": str(scratch), "RAY_USAGE_STATS_ENABLED": "0"}
        body = {"texts": ["ready?"], "labels": ["yes", "no"]}
        self.server = Server(["-m", "ray.serve.scripts", "run", str(file)], env, port, "/", body)

    def ask(self, request: Request) -> Answer:
        answer: Answer = self.server.http.post("/", {"texts": request.texts, "labels": request.labels})
        return answer

    def stop(self) -> None:
        self.server.stop()
        self._temporary.cleanup()
