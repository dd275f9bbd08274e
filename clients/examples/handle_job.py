"""Classify the lines of a file through a running service, and keep each answer as soon as it is here.

    ray job submit -- python -m clients.examples.handle_job tickets.jsonl answers.jsonl --labels billing,repair

INPUT is JSON Lines with a field "text" (.jsonl), or plain text with one text on each line (.txt). OUTPUT gets a line
for each of its lines, in the order in which the answers arrive; "row" counts from 0:

    {"row": 1, "label": "repair", "score": 0.9, "scores": {"repair": 0.9, "billing": 0.1}, "truncated": false}
    {"row": 0, "error": "the line cannot be read: it is blank"}

Another run with the same INPUT and OUTPUT goes on where the last one was killed: rows that have a line are not asked
for again. A row that the service could not answer in time gets no line, so that another run asks for it.

An API key comes from the environment variable NLI_API_KEY. A command line, or a job's runtime_env, would show it to
others on the machine and on Ray's dashboard; a file that holds `export NLI_API_KEY=nli_...` does not:

    ray job submit -- sh -c '. /run/secrets/nli.env && exec python -m clients.examples.handle_job ...'
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import BinaryIO, Unpack

import click

from clients.delivery.client import Client
from clients.delivery.question import Asking
from clients.errors import NotRunning
from clients.handle import HandleClient
from clients.results import Classification
from deployments.contract.errors import BodyTooLarge, EngineFailed, InvalidRequest, ServiceError, Unauthorized

OF_THE_ROW = (BodyTooLarge, EngineFailed, InvalidRequest)  # other errors say nothing about it, and may pass
CLASSIFIED, FAILED = 1, 2
HEAD = b'{"row": '  # of each line that is written here


@click.command()
@click.argument("input", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--labels", required=True, help="The candidates, with commas between them.")
@click.option("--app", default="nli", show_default=True, help="The application's name in serve_config.yaml.")
@click.option("--template", help='Makes a hypothesis of a label, as in "It is about {}."; else the model\'s own.')
@click.option("--multi-label", is_flag=True, help="Score each label by itself, instead of against the others.")
@click.option("--deadline", type=float, help="Seconds that the answer to a row may take; else 30.")
def main(
    input: Path, output: Path, labels: str, app: str, template: str | None, multi_label: bool, deadline: float | None
) -> None:
    """Classify each line of INPUT into a line of OUTPUT.

    Exit code 0: every row is classified, or has an error of its own; 1: run it again to go on; 2: wrong arguments.
    """
    if input.suffix not in TEXT_OF:
        raise click.UsageError(f"{input} is none of {', '.join(TEXT_OF)}")
    if output.exists() and output.samefile(input):
        raise click.UsageError("INPUT and OUTPUT are the same file")
    if not output.absolute().parent.is_dir():
        raise click.UsageError(f"there is no folder {output.parent}")
    names = [label.strip() for label in labels.split(",")]
    asking: Asking = {"template": template, "multi_label": multi_label, "deadline_s": deadline}
    try:
        with input.open("rb") as lines, output.open("a+b") as file:
            results = Results(file, names)
            with HandleClient(app, api_key=os.environ.get("NLI_API_KEY")) as client:
                classify(client, lines, TEXT_OF[input.suffix], results, names, **asking)
            if client.callback_errors:
                raise OSError(f"{output} cannot be written; run again to go on")
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from None
    except Unauthorized as error:
        raise click.UsageError(f"NLI_API_KEY: {error}") from None
    except (NotRunning, ServiceError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(results.summary())
    sys.exit(1 if results.unanswered else 0)


def classify(
    client: Client,
    lines: Iterable[bytes],
    text_of: Callable[[bytes], str],
    results: Results,
    labels: list[str],
    **asking: Unpack[Asking],
) -> None:
    """Ask for each line, a few hundred ahead of the answers; each is written by a callback when it arrives.

    Raises:
        ServiceError: no row can be classified: the key, a label or an option is wrong, or nobody answers.
    """
    client.classify("-", labels, **asking)  # so that it is said once, rather than of each row
    for row, line in enumerate(lines):
        if row in results:
            continue
        try:
            text = text_of(line)
        except (ValueError, RecursionError) as error:
            results.write(row, error=f"the line cannot be read: {error}")
            continue
        client.submit(text, labels, callback=partial(results.arrived, row), **asking)
        if client.callback_errors:
            break


class Results:
    """OUTPUT: whole lines, each written as soon as it is known, from any thread. Takes a byte of memory for each row.

    Args:
        file: opened to read and append; may hold what an earlier run with the same labels wrote.

    Raises:
        UsageError: it holds something else, or another run writes to it.
    """

    def __init__(self, file: BinaryIO, labels: list[str]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._outcomes = bytearray()  # by row; 0: it has no line
        self.unanswered = 0
        """Rows of this run that another run should ask for again."""

        self._why = ""
        self._go_on(set(labels))

    def __contains__(self, row: int) -> bool:
        return row < len(self._outcomes) and self._outcomes[row] != 0

    def arrived(self, row: int, future: Future[Classification]) -> None:
        """The callback."""
        error = future.exception()
        if error is None:
            found = future.result()
            self.write(row, label=found.label, score=found.score, scores=dict(found.scores), truncated=found.truncated)
        elif isinstance(error, OF_THE_ROW):
            self.write(row, error=str(error))
        else:
            with self._lock:
                self.unanswered += 1
                self._why = str(error)

    def write(self, row: int, **outcome: object) -> None:
        line = json.dumps({"row": row, **outcome}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
            self._note(row, FAILED if "error" in outcome else CLASSIFIED)

    def summary(self) -> str:
        classified, failed = self._outcomes.count(CLASSIFIED), self._outcomes.count(FAILED)
        told = f"{classified + failed + self.unanswered:,} rows: {classified:,} classified, {failed:,} with an error"
        if self.unanswered:
            told += f", {self.unanswered:,} not answered ({self._why}); run again to ask for them"
        return told

    def _go_on(self, labels: set[str]) -> None:
        """Learn which rows have a line, and drop one that a kill has cut off."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.UsageError("another run writes to OUTPUT; wait for its end, or stop it") from None
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n") and line.startswith(HEAD[: len(line)]):
                break
            try:
                found = json.loads(line)
                row, scores = int(found["row"]), None if "error" in found else set(found["scores"])
            except (ValueError, LookupError, TypeError):
                raise click.UsageError(
                    f"line {number:,} of OUTPUT is not of this program; choose another file"
                ) from None
            if scores not in (None, labels):
                raise click.UsageError(f"line {number:,} of OUTPUT is about other labels; choose another file")
            self._note(row, CLASSIFIED if scores else FAILED)
            end += len(line)
        self._file.truncate(end)

    def _note(self, row: int, outcome: int) -> None:
        self._outcomes.extend(bytes(max(0, row + 1 - len(self._outcomes))))
        self._outcomes[row] = outcome


def plain_text(line: bytes) -> str:
    text = line.decode("utf-8-sig").strip()
    if not text:
        raise ValueError("it is blank")
    return text


def json_text(line: bytes) -> str:
    value = json.loads(plain_text(line))
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise ValueError('it is no object with a string "text"')
    return str(value["text"])


TEXT_OF: dict[str, Callable[[bytes], str]] = {".jsonl": json_text, ".txt": plain_text}


if __name__ == "__main__":
    main()
