"""The cache of converted models, filled with small files in place of models."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from deployments.engines.convert import cache as module
from deployments.engines.convert.cache import SUMS, converted, is_whole, key
from deployments.engines.refusal import StartRefused


class Make:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, into: Path) -> None:
        self.times += 1
        (into / "model.xml").write_text("<graph/>")
        (into / "model.bin").write_bytes(b"weights")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def test_what_was_made_is_found_and_not_made_again(tmp_path: Path) -> None:
    make = Make()

    folders = [converted(tmp_path, "a", make) for _ in range(2)]

    assert folders == [tmp_path / "a"] * 2
    assert make.times == 1
    assert sorted(file.name for file in folders[0].iterdir()) == ["model.bin", "model.xml", SUMS]


def _change(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"weightz")


def _lose(folder: Path) -> None:
    (folder / "model.bin").unlink()


def _break_sums(folder: Path) -> None:
    (folder / SUMS).write_text("{")


def _empty_sums(folder: Path) -> None:
    (folder / SUMS).write_text("{}")


def _list_sums(folder: Path) -> None:
    (folder / SUMS).write_text('["model.bin"]')


def _cut_short(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"")


@pytest.mark.parametrize("damage", [_change, _lose, _cut_short, _break_sums, _empty_sums, _list_sums, shutil.rmtree])
def test_a_broken_entry_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make = Make()
    folder = converted(tmp_path, "a", make)
    damage(folder)
    assert not is_whole(folder)

    assert converted(tmp_path, "a", make) == folder

    assert make.times == 2
    assert is_whole(folder)


def test_many_at_once_make_it_once(tmp_path: Path) -> None:
    make, ready = Make(), Barrier(4)

    def start(_: int) -> Path:
        ready.wait(timeout=30)
        return converted(tmp_path, "a", make)

    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(start, range(4)))

    assert set(folders) == {tmp_path / "a"}
    assert make.times == 1


def test_what_a_process_that_died_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".a").mkdir()
    (tmp_path / ".a" / "half").write_text("half")

    folder = converted(tmp_path, "a", Make())

    assert not (folder / "half").exists()
    assert is_whole(folder)


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        converted(tmp_path, "a", fail)

    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix != ".lock") == []


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    def fail(into: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StartRefused, match=f"cannot be written to {tmp_path}: No space left on device; make room"):
        converted(tmp_path, "a", fail)


def test_an_entry_that_is_whole_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = converted(tmp_path, "a", Make())
    monkeypatch.setattr(module, "FileLock", None)  # taking it would write a file

    assert converted(tmp_path, "a", Make()) == folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_another_model_has_another_key(model: Path, name: str) -> None:
    before = key(model, "recipe-1", ["numpy"])
    assert key(model, "recipe-1", ["numpy"]) == before

    (model / name).write_text("another")

    assert key(model, "recipe-1", ["numpy"]) != before


def test_another_recipe_or_version_has_another_key(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(model, "recipe-1", ["numpy"])
    assert key(model, "recipe-2", ["numpy"]) != before

    monkeypatch.setattr(module, "version", lambda _: "9.9")

    assert key(model, "recipe-1", ["numpy"]) != before


def test_a_shard_counts(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    before = key(model, "recipe-1", [])

    (model / "model-1.safetensors").write_text("another")

    assert key(model, "recipe-1", []) != before
