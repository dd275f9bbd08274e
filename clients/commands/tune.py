"""`nli-serve tune`: every engine that this machine has, on the CPU and on a GPU, for the configured model.

Each engine runs in a process of its own, one after the other. Converted models go to a temporary folder, and nothing
else is written: what to configure is printed, for somebody to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from clients.commands.apart import Died, apart
from clients.commands.measure import SHAPES, STEPS, Job, Measured, measure, prepare, sees_gpu
from deployments.contract.args import EMBEDDED, PRECISIONS, ModelArgs
from deployments.engines.gate import LARGEST, MARGIN, MEAN, Change, change
from deployments.engines.refusal import StartRefused
from deployments.engines.resolve import resolve, threads

DECIDES = 2  # of `SHAPES`: what a busy server runs most
ON_CPU = [("cpu", engine, one) for engine, precisions in PRECISIONS.items() for one in precisions if one != "fp16"]
ON_GPU = [("cuda", "torch", precision) for precision in PRECISIONS["torch"]]
REFERENCE = ON_CPU[0]  # torch in fp32

GPU_TOO = """
and change these of the Classifier; its share of the GPU must hold the MiB above, the driver's own and larger batches:

  ray_actor_options.num_gpus: 0.25
  user_config.max_batch_tokens: 16384
"""

Run = Callable[[Callable[[Job], Iterator[Any]], Job], Iterator[Any]]
"""Does a job's work and yields what that yields; `apart`, but for tests."""


class TuneRefused(Exception):
    """Why there is nothing to measure; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Row:
    """An engine and what came of it."""

    args: ModelArgs
    name: str
    result: Measured
    change: Change


def tune(model: ModelArgs, console: Console, run: Run = apart) -> None:
    """Measure, and print a table and what to configure.

    Raises:
        TuneRefused: the model is not on this machine, or has but one engine, or torch itself fails.
    """
    with TemporaryDirectory(prefix="nli-serve-tune-") as cache:
        jobs, problems = _jobs(model, Path(cache))
        measured, failed = _measure_all(jobs, console, run)
    if not measured:
        raise TuneRefused("\n".join(failed))
    reference = measured[0][1].logits
    rows = [Row(job.args, job.name, got, change(reference, got.logits)) for job, got in measured]
    console.print(f"Pairs a second with {threads(model)} threads, in batches of so many pairs x tokens; how far scores")
    console.print(
        "move from torch-fp32 on built-in texts; and the MiB they take, of the GPU where there is one:", _table(rows)
    )
    for line in (*failed, *problems):
        console.print(f"Not measured: {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(_advice(rows), highlight=False, markup=False, soft_wrap=True)


def _jobs(model: ModelArgs, cache: Path) -> tuple[list[Job], list[str]]:
    """The reference first; and why other engines are left out."""
    if model.name == EMBEDDED:
        raise TuneRefused(f"{EMBEDDED} has one engine, so there is nothing to choose; name an NLI model in model.name")
    jobs: list[Job] = []
    problems: list[str] = []
    for choice in ON_CPU + (ON_GPU if sees_gpu() else []):
        device, engine, precision = choice
        args = model.model_copy(update={"engine": engine, "precision": precision, "device": device, "fallback": None})
        try:
            jobs.append(Job(resolve(args), args, cache))
        except StartRefused as refusal:
            if choice == REFERENCE:
                raise TuneRefused(str(refusal)) from refusal
            problems.append(str(refusal))
    return jobs, problems


def _measure_all(jobs: list[Job], console: Console, run: Run) -> tuple[list[tuple[Job, Measured]], list[str]]:
    """What came of each, and why others failed; nothing at all without the first, the reference."""
    measured: list[tuple[Job, Measured]] = []
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(jobs) * STEPS)

        def tell(job: Job, step: str, done: int) -> None:
            progress.update(task, description=f"{job.name}: {step}", completed=jobs.index(job) * STEPS + done)

        for job in jobs:
            try:
                measured.append((job, _measure_one(job, run, partial(tell, job))))
            except (Died, StartRefused) as error:
                failed.append(f"{job.name}: {error}")
            if not measured:
                break
        progress.update(task, description="done", completed=len(jobs) * STEPS)
    return measured, failed


def _measure_one(job: Job, run: Run, tell: Callable[[str, int], None]) -> Measured:
    for step in run(prepare, job):
        tell(step, 0)
    for done, step in enumerate(run(measure, job)):
        if isinstance(step, Measured):
            return step
        tell(step, done)
    raise Died("no result")


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = [f"{shape.n_pairs}x{shape.n_tokens}" for shape in SHAPES]
    table.add_column("engine", no_wrap=True)
    for heading in (*headings, "largest", "mean", "flips", "MiB", "accurate"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            *(f"{rate:.0f}" for rate in row.result.rates),
            f"{row.change.largest:.4f}",
            f"{row.change.mean:.4f}",
            str(row.change.flips),
            f"{row.result.memory / 2**20:.0f}",
            "yes" if row.change.passes else "no",
        )
    return table


def _advice(rows: list[Row]) -> str:
    accurate = [row for row in rows if row.change.passes]
    best = max(accurate, key=lambda row: row.result.rates[DECIDES])
    gain = best.result.rates[DECIDES] / rows[0].result.rates[DECIDES]
    return (
        f"Accurate: no score moves by more than {LARGEST:g}, {MEAN:g} in the mean, and no first label changes that was "
        f"ahead by more than {MARGIN:g}.\n"
        f"The fastest of those in batches of {SHAPES[DECIDES].n_pairs} is {best.name}, {gain:.1f} times torch-fp32. "
        "In the config, under args.model:\n\n"
        f"  device: {best.args.device}\n  engine: {best.args.engine}\n  precision: {best.args.precision}\n"
        f"{GPU_TOO if best.args.device == 'cuda' else ''}"
    )
