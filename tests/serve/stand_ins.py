"""The real graph around engines that a test can rely on, or that fail as a test wants."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from deployments.runtime.worker import Ticket, Worker

POLL_S = 0.01
MODEL = ServedModel(name="fake", revision=None, engine="torch-fp32", fallback=False, template="This is {}.")


class PoisonedEngine(FakeEngine):
    """Raises on a text of 13 words; a text that holds "held" keeps it for as long as the file `gate` is there."""

    def __init__(self, gate: str = "", **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._gate = Path(gate)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if any(len(pair.premise) == 13 for pair in pairs):
            raise RuntimeError("poison")
        _wait_while_held(pairs, self._gate)
        return super().logits(pairs)


class RefusingEngine(FakeEngine):
    """Does not start, and says so once the file `gate` is gone."""

    def __init__(self, gate: str = "") -> None:
        while Path(gate).is_file():
            time.sleep(POLL_S)
        raise StartRefused("no such weights on this machine")


class RecordingEngine(FakeEngine):
    """Writes down what is tokenised, what is run and who leaves without an answer, a line each.

    A text that holds "slow" takes `slow_s`; one that holds "held" takes as long as `Record.hold` lasts.
    """

    def __init__(self, log: str, slow_s: float = 2.0, **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._log = Path(log)
        self._slow_s = slow_s
        _tell_who_leaves(self._write)

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        self._write({"tokenised": list(texts)})
        return super().pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        self._write({"words": [list(pair.premise) for pair in pairs]})
        if any(word_id("slow") in pair.premise for pair in pairs):
            time.sleep(self._slow_s)
        _wait_while_held(pairs, _gate(self._log))
        return super().logits(pairs)

    def _write(self, line: dict[str, Any]) -> None:
        with self._log.open("ab", buffering=0) as file:  # a line is one write, whichever thread it comes from
            file.write(f"{json.dumps(line)}\n".encode())


class Record:
    """What a `RecordingEngine` wrote down since this was made; the engine may have served others before."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.touch()
        self._start = log.stat().st_size

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Meanwhile the engine is kept busy by whatever holds "held"."""
        with held(_gate(self._log)):
            yield

    @property
    def _lines(self) -> list[dict[str, Any]]:
        with self._log.open() as file:
            file.seek(self._start)
            return [json.loads(line) for line in file if line.endswith("\n")]  # else it is being written

    @property
    def tokenised(self) -> list[str]:
        return [text for line in self._lines for text in line.get("tokenised", ())]

    @property
    def batches(self) -> list[list[list[int]]]:
        """The words of each premise, as ids, by batch."""
        return [line["words"] for line in self._lines if "words" in line]

    @property
    def left(self) -> int:
        """How many requests the classifier was told that nobody waits for any more."""
        return len({id for line in self._lines for id in line.get("left", ())})

    def pairs_with(self, word: str) -> int:
        return sum(word_id(word) in words for batch in self.batches for words in batch)


@contextmanager
def held(gate: Path) -> Iterator[None]:
    """The gate of an engine is there, and gone afterwards, whatever happens."""
    gate.touch()
    try:
        yield
    finally:
        gate.unlink()


def _gate(log: Path) -> Path:
    return log.with_suffix(".held")


def _wait_while_held(pairs: Sequence[Pair], gate: Path) -> None:
    if any(word_id("held") in pair.premise for pair in pairs):
        while gate.is_file():
            time.sleep(POLL_S)


def _tell_who_leaves(write: Callable[[dict[str, Any]], None]) -> None:
    """Called in the replica of the classifier: from then on it writes down whom it is told to forget, by their ids."""
    cancel, forget = Worker.cancel, Worker.forget

    def recorded_cancel(self: Worker, tickets: Sequence[Ticket]) -> None:
        cancel(self, tickets)
        write({"left": [ticket.work.get("id") for ticket in tickets]})

    def recorded_forget(self: Worker, ids: Sequence[str]) -> None:
        forget(self, ids)
        write({"left": list(ids)})

    Worker.cancel, Worker.forget = recorded_cancel, recorded_forget  # type: ignore[method-assign]


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
    """What all replicas let pass since this was made: (when in ns, requests) in order of time; a refund is negative."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.touch()
        self._start = log.stat().st_size

    def all(self) -> list[tuple[int, int]]:
        with self._log.open() as file:
            file.seek(self._start)
            lines = [line.split() for line in file if line.count(" ") == 2]
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
