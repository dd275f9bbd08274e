"""`nli-serve pull`: the configured model from the Hugging Face Hub into this machine's cache.

The service itself never fetches. A download has no time limit and resumes where it stopped; reaching the Hub at
all has one, so that a machine without a network is told so in seconds. Only files that loading needs are
fetched, never a pickle, and the weights are checked against the sha256 that the Hub states.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import ModelInfo
from rich.console import Console

from deployments.contract.args import EMBEDDED, ModelArgs
from deployments.engines.refusal import StartRefused
from deployments.engines.resolve import cached

from .resume import WrongContent, fetch

REACH_S = 10.0
TRANSIENT = {408, 429}  # HTTP statuses that a later try may not meet
FILES = [  # as patterns, none of which a pickle can match
    "config.json",
    "tokenizer*.json",
    "vocab*.json",
    "vocab*.txt",
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
        console.print(f"Nothing to fetch: {model.name} is not of the Hub.", highlight=False, soft_wrap=True)
    elif folder := _cached(model):
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
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in TRANSIENT or status >= 500:
            raise _unreachable(f"it answers {status}") from error
        raise PullFailed(f"the Hub answers {status} for {model.name}; mend model.name, or `hf auth login`") from error
    except (TimeoutError, httpx2.TimeoutException) as error:
        raise _unreachable(f"no answer within {seconds:g} s") from error
    except (httpx2.HTTPError, OSError, ValueError, TypeError, KeyError) as error:  # the last three: of another server
        raise _unreachable(_first_line(error)) from error


def _unreachable(why: str) -> HubUnreachable:
    return HubUnreachable(
        f"the Hub, {constants.ENDPOINT}, cannot be reached: {why}; set HTTPS_PROXY, or HF_ENDPOINT to a mirror, or "
        "copy the model's folder here and name it in model.name"
    )


def _download(model: ModelArgs, info: ModelInfo, console: Console) -> None:
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model.name, repo_type="model"), "blobs")
    try:
        for file in info.siblings or []:
            if not any(fnmatch(file.rfilename, pattern) for pattern in FILES):
                continue
            if file.lfs is not None:
                url = hf_hub_url(model.name, file.rfilename, revision=model.revision)
                fetch(url, blobs / file.lfs.sha256, file.lfs.size, file.lfs.sha256, console)
            # Not snapshot_download: it writes down the whole repository, of which these files are then no snapshot.
            hf_hub_download(model.name, file.rfilename, revision=model.revision)
    except WrongContent as error:
        raise PullFailed(f"{file.rfilename} is deleted: {error}; try again") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise PullFailed(
            f"the download stopped: {_first_line(error)}; run this again, it goes on where it was"
        ) from error
    if _cached(model) is None:
        raise PullFailed(
            f"{model.name} holds no safetensors model: config.json, tokenizer.json and model.safetensors (or its "
            "shards) must be in it; choose another model"
        )


def _cached(model: ModelArgs) -> Path | None:
    try:
        return cached(model.name, model.revision)
    except StartRefused as error:
        raise PullFailed(str(error)) from error


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
