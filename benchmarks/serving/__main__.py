"""Runs every system by turns and prints tables for docs/bench.md; leave the machine alone meanwhile.

A whole run takes about 20 minutes. `--rounds 1 --system ours --cell base` and the like run a part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from benchmarks.limits.table import row
from deployments.contract.args import ModelArgs
from deployments.engines.resolve import convert, resolve
from deployments.engines.torch import Device, TorchEngine

from .cells import Cell, Request, cells
from .expected import Expected, WrongAnswer, expect
from .lineup import Entry, best_precision, lineup
from .load import measure, run
from .model import model_folder
from .probes import START, probe
from .report import Results, figures, goals
from .system import System
from .systems.ours import Ours
from .systems.pipeline import Setting, best, cores

ROUNDS = 3
PLOT = Path(__file__).parent.parent.parent / "docs" / "serving.svg"


def main() -> None:
    """Progress on stderr, tables on stdout."""
    options = _options()
    every = cells(options.scale)
    chosen = [cell for cell in every if any(part in cell.name for part in options.cell)]
    disable_progress_bar()  # type: ignore[no-untyped-call]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "nli-serve", "bench")
    model = model_folder(root)
    args = ModelArgs.model_validate({"name": str(model), "device": "cpu", "engine": "openvino"})
    args = args.model_copy(update={"precision": best_precision()})
    convert(resolve(args), args)
    expected = _expected(model, chosen)
    setting = _best_setting(model, every[0])
    entries = [entry for entry in lineup(setting) if any(part in entry.key for part in options.system)]
    results, problems = Results(), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            for entry in entries:
                mine = [cell for cell in chosen if entry.takes(cell, number, every[0])]
                _tell(f"round {number + 1}: {entry.system.name}, {len(mine)} cells")
                try:
                    _measure(entry, mine, every, expected, results, model, Path(scratch))
                except Exception as error:  # one that fails does not cost the figures of the others
                    problems.append(f"{entry.system.name}: {type(error).__name__}: {error}")
                    _tell(problems[-1])
                    if isinstance(error, WrongAnswer):
                        results.values.pop(entry.key, None)
                if options.json:
                    options.json.write_text(json.dumps(results.values, indent=1))
    _print(results, every)
    if options.plot and every[0] in chosen:
        from .plot import plot

        plot(results, every[0].name, PLOT)
    if problems:
        sys.exit("\n".join(["wrong or failed:", *problems]))


def _measure(
    entry: Entry,
    mine: Sequence[Cell],
    every: Sequence[Cell],
    expected: Expected,
    results: Results,
    model: Path,
    scratch: Path,
) -> None:
    """Start a system, put all its cells to it, stop it."""
    system = entry.system
    system.start(model, scratch)
    try:
        if isinstance(system, Ours):
            results.add(entry.key, START, system.server.first_answer_s)
        _warm_up(system)
        if not (entry.peer or entry.cached):
            single = next(
                cell for cell in every if len(cell.requests[0].texts) == 1 and len(cell.requests[0].labels) == 5
            )
            wide = next(cell for cell in every if len(cell.requests[0].labels) == 128)
            for what, value in probe(system, single, wide.requests[0]):
                results.add(entry.key, what, value)
        for cell in mine:
            if cell.warm:
                run(system, cell.warm, cell.clients)
            found, answers = measure(system, cell, once=entry.cached)
            off = expected.check(system.precision, cell.requests * (len(answers) // len(cell.requests)), answers)
            results.add(entry.key, cell.name, found.pairs_per_s)
            results.add(entry.key, f"p50 ms: {cell.name}", found.p50_ms)
            _tell(
                f"  {cell.name}: {found.pairs_per_s:.1f} pairs/s, p50 {found.p50_ms:.0f} ms, off by at most"
                f" {off.largest:.4f}, {off.mean_log:.4f} in the mean of logarithms"
            )
    finally:
        system.stop()


def _warm_up(system: System) -> None:
    """Texts of many lengths: libraries set themselves up for each."""
    requests = [Request(tuple(f"warm {i} {'word ' * (3 * i + j)}" for j in range(3)), ("a", "b")) for i in range(16)]
    run(system, requests, 8)


def _expected(model: Path, chosen: Sequence[Cell]) -> Expected:
    requests = [request for cell in chosen for request in cell.requests]
    _tell("right answers, by torch in fp32")
    return expect(TorchEngine(model, "fp32", Device("cpu", threads=cores())), requests)


def _best_setting(model: Path, base: Cell) -> Setting:
    request = base.requests[0]
    found, rates = best(model, request.texts[:8], request.labels)
    for setting, rate in rates.items():
        _tell(f"pipeline, {setting}: {rate:.0f} pairs/s")
    return found


def _print(results: Results, every: Sequence[Cell]) -> None:
    names = [cell.name for cell in every]
    for line in figures(results, names):
        row(*line)
    sys.stdout.write("\n")
    crowd = next(name for name in names if name.startswith("single texts, 32"))
    for line in goals(results, names[0], crowd, next(cell.name for cell in every if cell.warm)):
        row(*line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cell", action="append", help="part of a name; several may be given")
    parser.add_argument("--system", action="append", help="part of a name in the head of the table")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests, for a quick look")
    parser.add_argument("--quick", action="store_true", help="one round of the base cell, a quarter of the requests")
    parser.add_argument("--json", type=Path, help="write all values there")
    parser.add_argument("--plot", action="store_true", help=f"draw {PLOT.name} into docs/")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.scale, options.cell = 1, 0.25, options.cell or ["base"]
    options.cell, options.system = options.cell or [""], options.system or [""]
    return options


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
