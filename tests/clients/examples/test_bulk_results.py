"""The output folder: whole files only, and never two jobs in one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest

from clients.examples.bulk.refusal import JobRefused
from clients.examples.bulk.results import MANIFEST, Counts, Results
from clients.examples.bulk.scoring import Answer
from clients.examples.bulk.source import Shard, Source

SHARD = Shard("/in/tickets 1%.csv", number=2, first_row=8, n_rows=2, start=100)
GOOD: Answer = {
    "text": "a",
    "label": "b, c",
    "score": 0.75,
    "scores": [{"label": "b, c", "score": 0.75}, {"label": "d", "score": 0.25}],
    "truncated": False,
    "error": None,
}
BAD: Answer = {"text": None, "label": None, "score": None, "scores": None, "truncated": None, "error": "no"}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text\n")
    return Source(str(tmp_path / "in"), "text")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_shard_becomes_one_file_and_the_folder_one_table(out: Path, source: Source) -> None:
    results = Results(str(out))
    results.claim({}, source)

    counts = pickle.loads(pickle.dumps(results)).write(SHARD, [GOOD, BAD])

    assert counts == results.finished(SHARD) == Counts(rows=2, errors=1)
    assert _files(out) == [MANIFEST, "file=tickets%201%25.csv/00002.parquet"]
    assert pq.read_table(out).to_pylist() == [
        {"row": 8, **GOOD, "file": "tickets 1%.csv"},
        {"row": 9, **BAD, "file": "tickets 1%.csv"},
    ]
    assert pd.read_parquet(out)["row"].tolist() == [8, 9]


def test_a_shard_that_is_not_whole_is_not_finished(out: Path) -> None:
    results = Results(str(out))
    results.write(SHARD, [GOOD])
    file = next(out.rglob("*.parquet"))
    (file.parent / f".{file.name}.0.tmp").write_bytes(file.read_bytes())

    file.unlink()
    without = results.finished(SHARD)
    file.write_bytes(b"")
    empty = results.finished(SHARD)

    assert (without, empty) == (None, None)


def test_what_fails_on_the_way_leaves_no_file(out: Path) -> None:
    def answers() -> Iterator[Answer]:
        yield GOOD
        raise JobRefused("the file cannot be read")

    with pytest.raises(JobRefused):
        Results(str(out)).write(SHARD, answers())

    assert Results(str(out)).finished(SHARD) is None


def test_half_written_files_are_swept_and_no_others(out: Path) -> None:
    results = Results(str(out))
    results.write(SHARD, [GOOD])
    half = next(out.rglob("*.parquet")).parent / ".00003.parquet.0.tmp"
    half.touch()

    results.sweep()

    assert not half.exists()
    assert results.finished(SHARD) == Counts(1, 0)


def test_a_job_goes_on_where_its_settings_are_the_same(out: Path, source: Source) -> None:
    Results(str(out)).claim({"labels": ["a"], "input": {"a.csv": [1, 2]}}, source)
    Results(str(out)).write(SHARD, [GOOD])

    Results(str(out)).claim({"labels": ["a"], "input": {"a.csv": [1, 2]}}, source)


def test_results_of_other_settings_are_refused_and_what_differs_is_named(out: Path, source: Source) -> None:
    Results(str(out)).claim({"labels": ["a"], "input": 1, "model": "m"}, source)
    Results(str(out)).write(SHARD, [GOOD])
    before = (out / MANIFEST).read_bytes()

    with pytest.raises(JobRefused, match=r"another job; what differs: labels, model; choose another folder"):
        Results(str(out)).claim({"labels": ["b"], "input": 1, "model": "n"}, source)

    assert (out / MANIFEST).read_bytes() == before


def test_settings_may_change_until_a_shard_is_finished(out: Path, source: Source) -> None:
    Results(str(out)).claim({"labels": ["a"]}, source)

    Results(str(out)).claim({"labels": ["b"]}, source)

    assert json.loads((out / MANIFEST).read_bytes()) == {"labels": ["b"]}


@pytest.mark.parametrize("manifest", [None, "{", "[]"])
def test_a_folder_of_something_else_is_refused(manifest: str | None, out: Path, source: Source) -> None:
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "thesis.txt").touch()
    if manifest is not None:
        (out / MANIFEST).write_text(manifest)

    with pytest.raises(JobRefused, match="choose another folder"):
        Results(str(out)).claim({"labels": ["a"]}, source)


def test_an_output_in_the_input_is_refused(tmp_path: Path, source: Source) -> None:
    for place in (tmp_path / "in", tmp_path / "in" / "out"):
        with pytest.raises(JobRefused, match="lies in the input"):
            Results(str(place)).claim({}, source)

    Results(str(tmp_path / "in.out")).claim({}, source)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, source: Source) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(JobRefused, match=r"file/out cannot be written: .*Not a directory"):
        Results(str(tmp_path / "file" / "out")).claim({}, source)
