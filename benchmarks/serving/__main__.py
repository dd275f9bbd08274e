"""Runs every system by turns and prints tables for docs/bench.md; leave the machine alone meanwhile.

`--system ours --cell base` and the like run a part.
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

from .cells import Cell, cells
from .expected import Expected, expect
from .lineup import TUNED, best_precision, lineup
from .model import model_folder
from .report import Results, figures, goals
from .rounds import Bench, tell
from .systems.pipeline import Setting, best, cores

ROUNDS = 3
LOOK = {"cpu": 16, "cuda": 64}  # texts, for the best setting
PLOT = Path(__file__).parent.parent.parent / "docs" / "serving.svg"


def main() -> None:
    """Progress on stderr, tables on stdout."""
    options = _options()
    every, untuned = cells(options.scale), Setting(1, cores(), 1, options.device)
    names = matching(options.cell, [cell.name for cell in every])
    keys = matching(options.system, [entry.key for entry in lineup(untuned)])
    chosen = [cell for cell in every if cell.name in names]
    disable_progress_bar()  # type: ignore[no-untyped-call]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "nli-serve", "bench")
    model = model_folder(root)
    if options.device == "cpu":
        _convert(model)
    expected = _expected(model, chosen)
    tuned = any(key.startswith(TUNED) for key in keys)
    setting = _best_setting(model, every[0], options.device) if tuned else untuned
    entries = [entry for entry in lineup(setting) if entry.key in keys]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(model, Path(scratch), every, chosen, expected)
        for number in range(options.rounds):
            bench.round(entries, number, lambda: _save(bench.results, options.json))
    _print(bench.results, every)
    if options.plot and every[0] in chosen:
        from .plot import plot

        plot(bench.results, every[0].name, PLOT)
    if bench.problems:
        sys.exit("\n".join(["wrong or failed:", *bench.problems]))


def matching(parts: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that hold one of the parts.

    Raises:
        SystemExit: a part is in no name.
    """
    for part in parts:
        if not any(part in name for name in names):
            sys.exit("\n  ".join([f"{part!r} is in none of these names:", *names]))
    return [name for name in names if any(part in name for part in parts)]


def _convert(model: Path) -> None:
    """Before anybody is timed who starts with it."""
    choice = {"device": "cpu", "engine": "openvino", "precision": best_precision()}
    args = ModelArgs.model_validate({"name": str(model), **choice})
    convert(resolve(args), args)


def _save(results: Results, file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(results.values, indent=1))


def _expected(model: Path, chosen: Sequence[Cell]) -> Expected:
    requests = [request for cell in chosen for request in cell.requests]
    tell("right answers, by torch in fp32")
    return expect(TorchEngine(model, "fp32", Device("cpu", threads=cores())), requests)


def _best_setting(model: Path, base: Cell, device: str) -> Setting:
    texts = [text for request in base.requests for text in request.texts][: LOOK[device]]
    found, rates = best(model, texts, base.requests[0].labels, device)
    for setting, rate in rates.items():
        tell(f"pipeline, {setting}: {rate:.0f} pairs/s")
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
    parser.add_argument("--device", choices=list(LOOK), default="cpu", help="cuda: wants a larger --scale, as 4")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cell", action="append", help="part of a name; several may be given")
    parser.add_argument("--system", action="append", help="part of a name in the head of the table")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests, for a quick look")
    parser.add_argument("--quick", action="store_true", help="one round of the base cell, a quarter of the requests")
    parser.add_argument("--json", type=Path, help="write all values there")
    parser.add_argument("--plot", action="store_true", help=f"draw {PLOT.name} into docs/")
    options = parser.parse_args()
    if options.plot and options.device == "cuda":
        parser.error("the plot is of the CPU; leave out --plot")
    if options.quick:
        options.rounds, options.scale, options.cell = 1, 0.25, options.cell or ["base"]
    options.cell, options.system = options.cell or [""], options.system or [""]
    return options


if __name__ == "__main__":
    main()
