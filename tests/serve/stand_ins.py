"""The real graph around engines that a test can rely on, or that fail as a test wants."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray.serve import Application

from deployments.contract.args import AppArgs, ModelArgs
from deployments.contract.model import ServedModel
from deployments.core.lease import Check, Reply
from deployments.core.lessee import Lessee, Passed
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import Engine, FloatArray, Pair
from deployments.engines.refusal import StartRefused
from deployments.graph import assemble
from deployments.graph import build as build_real
from deployments.quota import open_ledger

MODEL = ServedModel(name="fake", revision=None, engine="torch-fp32", fallback=False, template="This is {}.")


class PoisonedEngine(FakeEngine):
    """Raises on a text of 13 words."""

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if any(len(pair.premise) == 13 for pair in pairs):
            raise RuntimeError("poison")
        return super().logits(pairs)


class RefusingEngine(FakeEngine):
    """Does not start."""

    def __init__(self) -> None:
        raise StartRefused("no such weights on this machine")


class RecordingEngine(FakeEngine):
    """Writes down what is tokenised and what is run, a line each; a text that holds "slow" takes `slow_s`."""

    def __init__(self, log: str, slow_s: float = 2.0, **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._log = Path(log)
        self._slow_s = slow_s

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        self._write({"tokenised": list(texts)})
        return super().pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        self._write({"words": [list(pair.premise) for pair in pairs]})
        if any(word_id("slow") in pair.premise for pair in pairs):
            time.sleep(self._slow_s)
        return super().logits(pairs)

    def _write(self, line: dict[str, Any]) -> None:
        with self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Record:
    """What a `RecordingEngine` wrote down."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.touch()

    @property
    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    @property
    def tokenised(self) -> list[str]:
        return [text for line in self._lines for text in line.get("tokenised", ())]

    @property
    def batches(self) -> list[list[list[int]]]:
        """The words of each premise, as ids, by batch."""
        return [line["words"] for line in self._lines if "words" in line]

    def pairs_with(self, word: str) -> int:
        return sum(word_id(word) in words for batch in self.batches for words in batch)


class HangingEngine(FakeEngine):
    """Never comes back from a text that says "hang"; "stage 1" ends the task of @serve.batch."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        if "stage 1" in texts:
            self._loop.call_soon_threadsafe(self._end_stage_1)
        return super().pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if any(word_id("hang") in pair.premise for pair in pairs):
            threading.Event().wait()
        return super().logits(pairs)

    def _end_stage_1(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            if "_process_batches" in repr(task.get_coro()):
                task.cancel()


def open_recorded_ledger(log: str, application: str, **options: Any) -> Any:
    """Called in each replica of the front door: from then on it writes down what it lets pass, when it does."""
    file = Path(log).open("a", buffering=1)  # noqa: SIM115 - for as long as the process lives
    decide, receive, alone, refund = Lessee.decide, Lessee.receive, Lessee.alone, Lessee.refund

    def write(check: Check, decision: object, now: int, n: int = 1) -> None:
        if isinstance(decision, Passed) and check.cost[0]:
            file.write(f"{now} {n * check.cost[0]} {n * check.cost[1]}\n")

    def recorded_decide(self: Lessee, check: Check, now: int) -> Any:
        found = decide(self, check, now)
        if not (isinstance(found, Passed) and found.grant is None):  # else `alone` has written it down
            write(check, found, now)
        return found

    def recorded_receive(self: Lessee, reply: Reply, now: int) -> Any:
        sent = self._sent
        found = receive(self, reply, now)
        for check, one in zip(sent.message.checks if sent else (), found or (), strict=False):
            write(check, one, now)
        return found

    def recorded_alone(self: Lessee, check: Check, now: int) -> Any:
        found = alone(self, check, now)
        write(check, found, now)
        return found

    def recorded_refund(self: Lessee, passed: Passed, check: Check, now: int) -> None:
        write(check, passed, now, -1)
        refund(self, passed, check, now)

    if not hasattr(Lessee, "is_recorded"):
        Lessee.is_recorded = True  # type: ignore[attr-defined]
        Lessee.decide, Lessee.receive = recorded_decide, recorded_receive  # type: ignore[method-assign]
        Lessee.alone, Lessee.refund = recorded_alone, recorded_refund  # type: ignore[method-assign]
    return open_ledger(application, **options)


class Admissions:
    """What all replicas let pass: (when in ns, requests) in order of time; a refund is negative."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.touch()

    def all(self) -> list[tuple[int, int]]:
        lines = [line.split() for line in self._log.read_text().splitlines() if line.count(" ") == 2]
        return sorted((int(at), int(requests)) for at, requests, _ in lines)


def word_id(word: str) -> int:
    """As the fake engine tokenises it."""
    return FakeEngine().pairs([word], ["x"])[0][0].premise[0]


ENGINES: tuple[type[FakeEngine], ...] = (FakeEngine, PoisonedEngine, RefusingEngine, RecordingEngine, HangingEngine)


def build(args: dict[str, Any]) -> Application:
    """`engine` names a class of this file, or a model folder for the service's own `build`."""
    engines = {engine.__name__: engine for engine in ENGINES}
    if args["engine"] not in engines:
        return build_real(AppArgs(auth="off", model=ModelArgs(name=args["engine"])))
    app_args = AppArgs.model_validate({"auth": "off", **args.get("app", {})})
    load = partial(_load, engines[args["engine"]], args["options"])
    if log := args.get("admissions"):
        return assemble(app_args, MODEL, load, partial(open_recorded_ledger, log))
    return assemble(app_args, MODEL, load)


def _load(engine: type[FakeEngine], options: dict[str, Any], gpu_fraction: float) -> Engine:
    return engine(**options)
