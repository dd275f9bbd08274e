"""`nli-serve pull`: the configured model from the Hugging Face Hub into this machine's cache.

The service itself never fetches. A download has no time limit and resumes where it stopped; reaching the Hub at
all has one, so that a machine without a network is told so in seconds. Only files that loading needs are
fetched, never a pickle, and the weights are checked against the sha256 that the Hub states.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import ModelInfo
from rich.console import Console

from deployments.contract.args import EMBEDDED, ModelArgs
from deployments.engines.resolve import cached

from .resume import WrongContent, fetch

REACH_S = 10.0
FILES = [
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
]

T = TypeVar("T")


class PullFailed(Exception):
    """Why the model is not here; the message is for the user."""


class HubUnreachable(PullFailed):
    """The network or the Hub, not the request, is the reason."""


def pull(model: ModelArgs, console: Console, reach_s: float = REACH_S) -> None:
    """Fetch the model, unless it is here already or is none of the Hub's.

    Args:
        reach_s: seconds in which the Hub must have answered at all.

    Raises:
        HubUnreachable: it did not.
        PullFailed: it refused, or what came is not what it stated.
    """
    if model.name == EMBEDDED or model.is_folder:
        console.print(f"Nothing to fetch: {model.name} is not of the Hub.", highlight=False)
    elif folder := cached(model.name, model.revision):
        console.print(f"{model.name} is here already: {folder}", highlight=False, soft_wrap=True)
    else:
        info = _reach(model, reach_s)
        console.print(f"Fetching {model.name} at {model.revision}", highlight=False, soft_wrap=True)
        _download(model, info, console)


def _reach(model: ModelArgs, seconds: float) -> ModelInfo:
    def ask() -> ModelInfo:
        return HfApi().model_info(model.name, revision=model.revision, files_metadata=True, timeout=seconds)

    try:
        return _within(seconds, ask)
    except GatedRepoError as error:
        raise PullFailed(f"{model.name} is gated: accept its terms on the Hub, then `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise PullFailed(f"{model.name} has no commit {model.revision}; mend model.revision") from error
    except RepositoryNotFoundError as error:
        raise PullFailed(
            f"the Hub has no {model.name}, or it is private; mend model.name, or `hf auth login`"
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError, OfflineModeIsEnabled, FutureTimeoutError) as error:
        raise HubUnreachable(
            f"the Hub, {constants.ENDPOINT}, did not answer within {seconds:g} s; set HTTPS_PROXY, or HF_ENDPOINT to a "
            "mirror, or copy the model's folder here and name it in model.name"
        ) from error


def _download(model: ModelArgs, info: ModelInfo, console: Console) -> None:
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model.name, repo_type="model"), "blobs")
    try:
        for file in info.siblings or []:
            if file.lfs is not None and any(fnmatch(file.rfilename, pattern) for pattern in FILES):
                url = hf_hub_url(model.name, file.rfilename, revision=model.revision)
                fetch(url, blobs / file.lfs.sha256, file.lfs.size, file.lfs.sha256, console)
        snapshot_download(model.name, revision=model.revision, allow_patterns=FILES)
    except WrongContent as error:
        raise PullFailed(f"{file.rfilename} is deleted: {error}; try again") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise PullFailed(
            f"the download stopped: {_first_line(error)}; run this again, it goes on where it was"
        ) from error
    if cached(model.name, model.revision) is None:
        raise PullFailed(f"{model.name} has no model.safetensors or no tokenizer.json; choose a model that has both")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The call's result; a thread that outlives its time is left behind, as nothing can end a stuck look-up."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except Exception as error:
            result.set_exception(error)

    Thread(target=run, daemon=True).start()
    return result.result(seconds)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
