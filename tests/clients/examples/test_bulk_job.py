"""The whole job as a user types it, less Ray: one `ClassifyShards` of this process in place of the pool of actors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from clients.examples import bulk_job
from clients.examples.bulk.results import Results
from clients.examples.bulk.scoring import Scorer
from clients.examples.bulk.source import Shard, Source
from deployments.engines.fake import FakeEngine
from deployments.engines.refusal import StartRefused

LABELS = ("--labels", "billing, repair")


class Ran:
    """The shards that the actors were given, by file and number."""

    def __init__(self) -> None:
        self.shards: list[tuple[str, int]] = []


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    ran = Ran()

    def pipeline(
        shards: Sequence[Shard], load_scorer: Callable[[], Scorer], source: Source, results: Results, *_: float
    ) -> Iterator[dict[str, Any]]:
        actor = bulk_job.ClassifyShards(load_scorer, source, results)
        for shard in shards:
            ran.shards.append((shard.file, shard.number))
            yield from actor(pa.Table.from_pylist([asdict(shard)])).to_pylist()

    monkeypatch.setattr(bulk_job, "SHARD_ROWS", 2)
    monkeypatch.setattr(bulk_job, "pipeline", pipeline)
    monkeypatch.setattr(bulk_job, "_cluster", nullcontext)
    monkeypatch.setattr(bulk_job, "load", lambda *_: FakeEngine())
    return ran


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is: a config, a model that need not be loaded, and five rows, one of them bad, in three shards."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    names = {"contradiction": 0, "entailment": 1}
    (model / "config.json").write_text(json.dumps({"label2id": names, "id2label": {i: n for n, i in names.items()}}))
    for name in ("tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    config = {"applications": [{"name": "nli", "args": {"auth": "off", "model": {"name": str(model)}}}]}
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("id,text\n1,repair it\n2\n3,billing\n")
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "repair me"}\n{"text": "my bill"}\n')
    return tmp_path


def _run(*words: str) -> Result:
    return CliRunner().invoke(bulk_job.main, words)


def _job(*more: str) -> Result:
    return _run("in", "out", *LABELS, *more)


def _last_line(result: Result) -> str:
    assert result.stdout, (result.stderr, result.exception)
    return result.stdout.splitlines()[-1]


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "out").to_pylist()
    return rows


def _told(result: Result, code: int) -> str:
    """The one line of a job that ended before anything was done."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_every_row_comes_out_in_its_place(folder: Path, ran: Ran) -> None:
    result = _job()

    assert (result.exit_code, _last_line(result)) == (
        0,
        "5 rows: 4 classified, 1 with an error; 0 shards done before, 3 now",
    )
    assert [(row["file"], row["row"], row["text"], row["label"], row["error"]) for row in _rows(folder)] == [
        ("a.csv", 0, "repair it", "repair", None),
        ("a.csv", 1, None, None, "fields in the row: 1, in the header: 2"),
        ("a.csv", 2, "billing", "billing", None),
        ("b.jsonl", 0, "repair me", "repair", None),
        ("b.jsonl", 1, "my bill", "billing", None),
    ]


def test_no_text_is_told(folder: Path, ran: Ran, caplog: pytest.LogCaptureFixture) -> None:
    told = _job().output + caplog.text

    assert not any(text in told for text in ("repair it", "repair me", "my bill"))


def test_what_is_finished_is_not_done_again(folder: Path, ran: Ran) -> None:
    _job()
    ran.shards.clear()

    result = _job()

    assert ran.shards == []
    assert (result.exit_code, _last_line(result)) == (
        0,
        "5 rows: 4 classified, 1 with an error; 3 shards done before, 0 now",
    )


def test_a_killed_job_goes_on_and_half_written_files_are_not_taken_for_finished(folder: Path, ran: Ran) -> None:
    _job()
    rows = _rows(folder)
    lost = folder / "out" / "file=a.csv" / "00001.parquet"
    half = lost.with_name(".00001.parquet.0.tmp")
    half.write_bytes(lost.read_bytes()[:100])
    lost.unlink()
    ran.shards.clear()

    result = _job()

    assert ran.shards == [("a.csv", 1)]
    assert _last_line(result) == "5 rows: 4 classified, 1 with an error; 2 shards done before, 1 now"
    assert _rows(folder) == rows
    assert not half.exists()


@pytest.mark.parametrize(
    ("more", "differs"),
    [
        (("--labels", "billing,holiday"), "labels"),
        (("--template", "It is {}."), "template"),
        (("--multi-label",), "multi label"),
        (("--text-column", "id"), "text column"),
    ],
)
def test_another_question_is_refused(more: tuple[str, ...], differs: str, folder: Path, ran: Ran) -> None:
    (folder / "in" / "b.jsonl").unlink()
    _job()

    told = _told(_job(*more), 2)

    assert f"holds results of another job; what differs: {differs};" in told


def test_the_template_of_the_model_is_the_same_said_or_not(folder: Path, ran: Ran) -> None:
    _job()

    assert _job("--template", "This example is {}.").exit_code == 0


@pytest.mark.parametrize(
    ("file", "differs"),
    [("in/a.csv", "input"), ("in/new.csv", "input"), ("model/model.safetensors", "weights")],
)
def test_another_input_or_model_is_refused(file: str, differs: str, folder: Path, ran: Ran) -> None:
    _job()
    (folder / file).write_text("text\nrepair\n")

    assert f"what differs: {differs};" in _told(_job(), 2)


def test_an_input_that_changes_meanwhile_is_told(folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> FakeEngine:
        (folder / "in" / "b.jsonl").write_text('{"text": "other"}\n{"text": "other"}\n')
        return FakeEngine()

    monkeypatch.setattr(bulk_job, "load", load)

    result = _job()

    assert result.exit_code == 1
    assert "the input has changed while the job ran" in result.stderr


def test_only_bad_rows_are_still_results_but_no_success(folder: Path, ran: Ran) -> None:
    (folder / "bad.jsonl").write_text("a\nb\nc\n")

    result = _run("bad.jsonl", "out", *LABELS)

    assert (result.exit_code, _last_line(result)) == (
        1,
        "3 rows: 0 classified, 3 with an error; 0 shards done before, 2 now",
    )
    assert [row["error"] for row in _rows(folder)] == ["the line is not JSON: Expecting value at character 1"] * 3


def test_a_file_without_rows_is_no_failure(folder: Path, ran: Ran) -> None:
    (folder / "empty.jsonl").touch()

    result = _run("empty.jsonl", "out", *LABELS)

    assert (result.exit_code, _last_line(result)) == (
        0,
        "0 rows: 0 classified, 0 with an error; 0 shards done before, 0 now",
    )


def test_labels_may_bring_their_own_hypotheses_and_hold_commas(folder: Path, ran: Ran) -> None:
    (folder / "labels.json").write_text('{"money, and such": "billing", "broken": "repair it"}')

    _run("in", "out", "--labels-file", "labels.json")

    assert {row["label"] for row in _rows(folder)} == {"money, and such", "broken", None}


def test_a_model_that_a_worker_cannot_load_stops_the_job(
    folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> FakeEngine:
        raise StartRefused("it is not on this machine")

    monkeypatch.setattr(bulk_job, "load", load)

    result = _job()

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == "Error: a.csv, rows from 0: it is not on this machine"
    assert ran.shards == [("a.csv", 0)]


def test_a_file_that_breaks_off_stops_the_job_and_keeps_what_is_finished(folder: Path, ran: Ran) -> None:
    file = folder / "long.parquet"
    pq.write_table(pa.table({"text": ["repair", "billing", "repair"]}), file, row_group_size=2, compression="snappy")
    content = bytearray(file.read_bytes())
    second = pq.read_metadata(file).row_group(1).column(0)
    content[second.dictionary_page_offset : second.data_page_offset] = b"\xff" * (
        second.data_page_offset - second.dictionary_page_offset
    )
    file.write_bytes(content)

    result = _run("long.parquet", "out", *LABELS)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "long.parquet, rows from 2: long.parquet cannot be read" in result.stderr
    assert [row["row"] for row in _rows(folder)] == [0, 1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere.csv", "out", *LABELS), "there is no "),
        (("serve_config.yaml", "out", *LABELS), "serve_config.yaml is no file that can be read; expected .parquet"),
        ((".", "out", *LABELS), "is no file that can be read"),
        (("model/tokenizer.json", "out", *LABELS), "expected .parquet, .csv, .jsonl"),
        (("what://ever", "out", *LABELS), "no URI of a known kind"),
        (("in", "in/out", *LABELS), "lies in the input"),
        (("in", "serve_config.yaml/out", *LABELS), "cannot be written"),
        (("in", "model", *LABELS), "choose another folder"),
        (("in", "out"), "say either --labels or --labels-file"),
        (("in", "out", *LABELS, "--labels-file", "labels.json"), "say either --labels or --labels-file"),
        (("in", "out", "--labels-file", "nowhere.json"), "nowhere.json cannot be read"),
        (("in", "out", "--labels-file", "in/a.csv"), "in/a.csv cannot be read"),
        (("in", "out", "--labels", "a,b,a"), "/labels/2: repeats label 0, 'a'; labels must differ"),
        (("in", "out", "--labels", "a,,b"), "/labels/1: is blank; give it some text"),
        (("in", "out", *LABELS, "--template", "It is."), "/template: must hold exactly one {}"),
        (("in", "out", *LABELS, "--text-column", "body"), "a.csv: of its 2 columns 0 have the name 'body', not one"),
        (("in", "out", *LABELS, "--config", "in/a.csv"), "in/a.csv has no applications[0].args.model"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    words: tuple[str, ...], told: str, folder: Path, ran: Ran
) -> None:
    assert told in _told(_run(*words), 2)
    assert not (folder / "out").exists()


def test_a_config_with_a_wrong_model_is_refused(folder: Path, ran: Ran) -> None:
    (folder / "wrong.yaml").write_text("applications: [{args: {model: {nane: x}}}]")

    assert "wrong.yaml, args.model: nane Extra inputs" in _told(_job("--config", "wrong.yaml"), 2)


def test_a_model_that_is_not_here_is_told(folder: Path, ran: Ran) -> None:
    (folder / "model" / "config.json").unlink()

    assert "is no model: config.json, tokenizer.json and model.safetensors" in _told(_job(), 1)
    assert not (folder / "out").exists()
