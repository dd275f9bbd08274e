"""FastAPI around the pipeline, under uvicorn."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.serving.cells import Request
from benchmarks.serving.expected import Answer
from benchmarks.serving.server import Server
from benchmarks.serving.systems.pipeline import Setting, cores
from tests.ports import free_port


class FastApi:
    """As users write it: batch size 1, torch's own number of threads, as many requests at a time as come."""

    def __init__(self, name: str, best: Setting | None = None, device: str = "cpu") -> None:
        self.name, self._setting = name, best or Setting(1, cores(), at_a_time=0, device=device)
        self.precision = self._setting.precision

    def start(self, model: Path, scratch: Path) -> None:
        env = {"BENCH_SETTING": json.dumps(self._setting._asdict())}
        env |= {"BENCH_MODEL": str(model), "BENCH_FOLDER": str(scratch)}
        port = free_port()
        command = ["-m", "uvicorn", "benchmarks.serving.systems.fastapi_app:app", "--log-level", "warning"]
        body = {"texts": ["ready?"], "labels": ["yes", "no"]}
        self.server = Server(
            [*command, "--port", str(port), "--workers", str(self._setting.processes)], env, port, "/classify", body
        )

    def ask(self, request: Request) -> Answer:
        answer: Answer = self.server.http.post("/classify", {"texts": request.texts, "labels": request.labels})
        return answer

    def stop(self) -> None:
        self.server.stop()
