"""Classify large files from a Ray job: the service's engine, model decision and scores, without its front door.

    pip install 'nli-serve[server,bulk]'
    ray job submit -- python -m clients.examples.bulk_job tickets/ answers/ --labels billing,repair,holiday

INPUT is a Parquet, CSV or JSON Lines file, or a folder of such files; OUTPUT a folder that gets one Parquet file for
each shard of the input (bulk/results.py shows it). A run that was killed goes on where it stopped. Have one job at a
time write to one OUTPUT. On a cluster of several machines, INPUT and OUTPUT must be where all of them can reach them,
and the model on each (`nli-serve pull`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import pyarrow as pa
import ray

from clients.examples.bulk.question import labels_of, model_args, question
from clients.examples.bulk.refusal import JobRefused, JobStopped
from clients.examples.bulk.results import Counts, Results
from clients.examples.bulk.scoring import Scorer
from clients.examples.bulk.source import Shard, Source, fingerprint
from deployments.contract.args import ClassifierConfig, ModelArgs
from deployments.contract.model import ServedModel
from deployments.contract.wire import ClassifyRequest
from deployments.engines.refusal import StartRefused
from deployments.engines.resolve import load, resolve

CONFIG = Path("serve_config.yaml")
SHARD_ROWS = 4_096  # what a kill costs each worker: some minutes of a CPU, seconds of a GPU
GPU_BATCH_TOKENS = 16_384  # what `max_batch_tokens` in deployments/contract/args.py says a GPU wants


class ClassifyShards:
    """An actor: loads the engine once, and makes a file of results of each shard; a shard is a row of a batch."""

    def __init__(self, load_scorer: Callable[[], Scorer], source: Source, results: Results) -> None:
        self._load_scorer = load_scorer
        self._source = source
        self._results = results
        self._scorer: Scorer | None = None

    def __call__(self, shards: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._classify(Shard(**shard)) for shard in shards.to_pylist()])

    def _classify(self, shard: Shard) -> dict[str, Any]:
        """What went wrong comes back as a value, so that the job can say it in one line."""
        name = f"{shard.file}, rows from {shard.first_row:,}"
        try:
            self._scorer = self._scorer or self._load_scorer()
            counts = self._results.write(shard, self._scorer.answers(self._source.cells(shard)))
        except (JobRefused, StartRefused) as error:
            return {"name": name, "rows": 0, "errors": 0, "refusal": str(error)}
        return {"name": name, "rows": counts.rows, "errors": counts.errors, "refusal": ""}


def pipeline(
    shards: Sequence[Shard],
    load_scorer: Callable[[], Scorer],
    source: Source,
    results: Results,
    workers: int,
    num_gpus: float,
) -> Iterable[dict[str, Any]]:
    """Shards through a pool of actors: what became of each, as soon as its file is there."""
    done: Iterable[dict[str, Any]] = (
        ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards))
        .map_batches(
            ClassifyShards,
            fn_constructor_args=(load_scorer, source, results),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=None if num_gpus else 0.5,  # a claim for the scheduler: room beside a service on two cores
            num_gpus=num_gpus,
        )
        .iter_rows()
    )
    return done


@click.command()
@click.argument("input")
@click.argument("output")
@click.option("--labels", help="The candidates, with commas between them.")
@click.option(
    "--labels-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON instead: a list of labels, or an object from each label to its own hypothesis.",
)
@click.option("--text-column", default="text", show_default=True, help="The column that holds the texts.")
@click.option(
    "--template", help='Makes a hypothesis of a label, as in "It is about {}."; without it, the model\'s own.'
)
@click.option("--multi-label", is_flag=True, help="Score each label by itself, instead of against the others.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A config of the service, for its args.model; without it, serve_config.yaml if there is one here.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Engines at a time: one for each machine, or share of a GPU; on a CPU, each takes all cores.",
)
@click.option(
    "--num-gpus", type=click.FloatRange(min=0), default=0, show_default=True, help="Share of a GPU of each worker."
)
def main(
    input: str,
    output: str,
    labels: str | None,
    labels_file: Path | None,
    text_column: str,
    template: str | None,
    multi_label: bool,
    config: Path | None,
    workers: int,
    num_gpus: float,
) -> None:
    """Classify every row of INPUT into files in OUTPUT.

    Exit code 0: every row has a result, or an error of its own; 1: the job stopped, or no row could be classified;
    2: wrong arguments.
    """
    try:
        asked = question(labels_of(labels, labels_file), multi_label=multi_label, template=template)
        args = model_args(config or (CONFIG if CONFIG.exists() else None))
        source, results = Source(input, text_column), Results(output)
        model = resolve(args)
        shards = list(source.shards(SHARD_ROWS))
        results.claim(_settings(source, asked, model), source)
        before = {shard: counts for shard in shards if (counts := results.finished(shard))}
        todo = [shard for shard in shards if shard not in before]
        _tell(args, model, len(todo), len(before))
        load_scorer = partial(_load_scorer, args, model, asked, num_gpus)
        now = Counts()
        if todo:
            with _cluster():
                now = _watch(pipeline(todo, load_scorer, source, results, workers, num_gpus))
        results.sweep()
        if Source(input, text_column).fingerprint() != source.fingerprint():
            raise JobStopped("the input has changed while the job ran; empty the output and start again")
    except JobRefused as error:
        _fail(str(error), 2)
    except (JobStopped, StartRefused) as error:
        _fail(str(error), 1)
    total = sum(before.values(), now)
    good = total.rows - total.errors
    shards_told = f"{len(before):,} shards done before, {len(todo):,} now"
    click.echo(f"{total.rows:,} rows: {good:,} classified, {total.errors:,} with an error; {shards_told}")
    sys.exit(1 if total.rows and not good else 0)


@contextmanager
def _cluster() -> Iterator[None]:
    """The one that the job was submitted to, else one that runs on this machine, else one of its own."""
    ray.init(logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # a line for each shard reads better in a log
    try:
        yield
    finally:
        ray.shutdown()


def _watch(done: Iterable[dict[str, Any]]) -> Counts:
    total = Counts()
    for one in done:
        if one["refusal"]:
            raise JobStopped(f"{one['name']}: {one['refusal']}")
        total += Counts(one["rows"], one["errors"])
        click.echo(f"{one['name']}: {one['rows']:,} rows, {one['errors']:,} with an error", err=True)
    return total


def _load_scorer(args: ModelArgs, model: ServedModel, asked: ClassifyRequest, num_gpus: float) -> Scorer:
    max_tokens = GPU_BATCH_TOKENS if num_gpus else ClassifierConfig().max_batch_tokens
    return Scorer(load(model, args, num_gpus), asked, model.template, max_tokens)


def _settings(source: Source, asked: ClassifyRequest, model: ServedModel) -> dict[str, Any]:
    """All that the results depend on: with any of it changed, finished shards are of no use."""
    return {
        "input": source.fingerprint(),
        "text column": source.column,
        "rows of a shard": SHARD_ROWS,
        "labels": asked.labels,
        "multi label": asked.multi_label,
        "template": asked.template or model.template,
        "model": model.model_dump(),
        "weights": fingerprint(model.name) if model.name.startswith("/") else None,  # a Hub id is pinned
    }


def _tell(args: ModelArgs, model: ServedModel, n_todo: int, n_before: int) -> None:
    if model.fallback:
        click.echo(f"{args.name} is not on this machine: {model.name} answers for it", err=True)
    click.echo(f"{n_todo:,} shards to do, {n_before:,} done before; {model.name}, {model.engine}", err=True)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
