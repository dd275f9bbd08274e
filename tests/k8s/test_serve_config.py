"""The serve config of each overlay: generated from one source, sound, and wrong ones are told in one line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from clients.cli import main
from clients.commands.capacity import Supply
from clients.commands.check import check
from deployments.contract.keys import KeyFile, dump, new_key
from deployments.engines.refusal import StartRefused
from deployments.runtime.keyfile import KeyFileWatch
from k8s.generate import config, files, merge
from tests.k8s.manifests import OVERLAYS, ROOT, Doc, build, supply
from tests.unprivileged import open_folder, unprivileged

FRESH = files()


def _overlay(name: str) -> Any:
    return config(ROOT / "k8s" / "overlays" / name)


def _workers(overlay: str, count: str = "minReplicas") -> Supply:
    """What so many of the overlay's workers have."""
    manifests = build(overlay)
    cpus, gpus = supply(manifests)
    number = manifests.group[count]
    nodes = {f"node:10.0.0.{index}": 1.0 for index in range(number)}
    return Supply("the workers", number * cpus, number * gpus, others=nodes)


def _checked(data: Doc, folder: Path, there: Supply, keys: str | None = None) -> list[str]:
    """By `nli-serve check`, with a key file in the place of the Secret's."""
    file = folder / "keys.json"
    if keys is not None:
        file.write_text(keys)
    data["applications"][0]["args"]["keys_file"] = str(file)
    (folder / "serve.yaml").write_text(yaml.safe_dump(data))
    return check(folder / "serve.yaml", lambda _: there)


def _keys() -> str:
    return dump(KeyFile(keys=(new_key("acme", None, now=datetime(2026, 1, 1, tzinfo=UTC))[0],)))


@pytest.mark.parametrize("file", FRESH, ids=lambda file: file.parent.name)
def test_what_is_generated_is_fresh(file: Path) -> None:
    assert file.read_text() == FRESH[file], "run `make docs`"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_generated_is_what_is_applied(overlay: str) -> None:
    assert build(overlay).serve == _overlay(overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_fewest_replicas_pass_the_check_on_the_fewest_workers(tmp_path: Path, overlay: str) -> None:
    assert _checked(_overlay(overlay), tmp_path, _workers(overlay), _keys()) == []


def test_changes_reach_into_mappings_and_named_entries() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "each": [{"name": "x", "n": 1}, {"name": "y", "n": 2}]}
    changes = {"a": {"c": [3], "d": None}, "each": [{"name": "y", "m": 3}]}

    assert merge(before, changes) == {
        "a": {"b": 1, "c": [3], "d": None},
        "each": [{"name": "x", "n": 1}, {"name": "y", "n": 2, "m": 3}],
    }


def test_a_change_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no 'Clasifier'; allowed: Ingress, Classifier"):
        merge([{"name": "Ingress"}, {"name": "Classifier"}], [{"name": "Clasifier"}])


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("htp_options",), {}, "htp_options: unknown key; did you mean http_options?"),
        (("applications", 0, "args", "key_file"), "/k", "key_file: unknown key; did you mean keys_file?"),
        (("applications", 0, "deployments", 0, "max_replica_per_node"), 1, "did you mean max_replicas_per_node?"),
        (("applications", 0, "deployments", 1, "autoscaling_config", "max_replicas"), 3, "greater than or equal to"),
        (("applications", 0, "args", "model", "device"), "cpu", "0.5, but args.model.device is cpu"),
        (("applications", 0, "args", "model", "revision"), "main", "String should match pattern"),
    ],
)
def test_a_wrong_serve_config_is_told_in_one_line(
    tmp_path: Path, path: tuple[Any, ...], value: object, said: str
) -> None:
    data = holder = _overlay("prod-gpu")
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value

    (found,) = _checked(data, tmp_path, _workers("prod-gpu"), _keys())

    assert said in found


@pytest.mark.parametrize(
    ("keys", "said"), [(None, "make it with `nli-serve keys create"), ("{", "cannot be used: Invalid JSON")]
)
def test_a_missing_or_wrong_key_file_ends_the_check_with_one_line_and_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: str | None, said: str
) -> None:
    monkeypatch.setattr("clients.commands.capacity.supply", lambda _: _workers("cpu"))
    assert len(_checked(_overlay("cpu"), tmp_path, _workers("cpu"), keys)) == 1

    done = CliRunner().invoke(main, ["check", str(tmp_path / "serve.yaml")])

    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert said in done.output


def test_a_missing_gpu_is_told_in_one_line(tmp_path: Path) -> None:
    there = _workers("gpu")
    without = Supply("the workers", there.cpus, 0, others=there.others)

    (found,) = _checked(_overlay("gpu"), tmp_path, without, _keys())

    assert "4 replicas of 0.5 need 2 GPUs (a replica never spans two), the workers has 0" in found


def test_a_missing_gpu_ends_the_check_with_one_line_and_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = _workers("gpu")
    without = Supply("the workers", there.cpus, 0, others=there.others)
    monkeypatch.setattr("clients.commands.capacity.supply", lambda _: without)
    _checked(_overlay("gpu"), tmp_path, without, _keys())  # which writes the file

    done = CliRunner().invoke(main, ["check", str(tmp_path / "serve.yaml")])

    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "need 2 GPUs" in done.output


def test_a_model_folder_that_cannot_be_read_ends_the_pull_with_its_cause_and_1() -> None:
    """As `nli-serve pull` in the image, and `nli-serve up`; a replica says the same (tests/engines/test_resolve.py)."""
    with open_folder() as folder:
        model = folder / "model"
        model.mkdir(mode=0)
        data = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        data["applications"][0]["args"]["model"] |= {"name": str(model), "revision": None}
        file = folder / "serve.yaml"
        file.write_text(yaml.safe_dump(data))
        file.chmod(0o644)
        assert CliRunner().invoke(main, ["pull", str(file)]).exit_code == 1  # an empty folder; and all is imported now

        with unprivileged():
            done = CliRunner().invoke(main, ["pull", str(file)])

        model.chmod(0o700)
    *_, last = done.output.splitlines()
    assert (done.exit_code, "Traceback" in done.output) == (1, False), done.output
    assert last.startswith(f"{model} cannot be read: Permission denied; let user ")


@pytest.mark.parametrize("content", [None, "{"])
def test_a_replica_refuses_a_missing_or_wrong_key_file_in_one_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys.json"
    if content:
        file.write_text(content)

    with pytest.raises(StartRefused) as refused:
        KeyFileWatch(file)

    assert "\n" not in str(refused.value)
    assert f"the key file {file} cannot be used: " in str(refused.value)
