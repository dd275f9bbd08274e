"""The Dockerfile, as far as it can be looked at and run without building it, and the versions of everything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from clients.commands.profile import COMMON, FAST
from clients.commands.pull import FILES
from tests.clients.commands.test_pull import COMMIT, Hub, hub
from tests.k8s.manifests import OVERLAYS, ROOT, build
from tests.k8s.schema import VERSIONS

__all__ = ["hub"]  # a fixture

DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)
SERVED = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]["args"]["model"]
PAGES = [ROOT / "k8s" / "README.md", ROOT / "k8s" / "RUNBOOK.md"]


def _args() -> dict[str, str]:
    return {name: value.strip('"') for name, value in re.findall(r"^ARG (\w+)=(.+)$", DOCKERFILE, re.MULTILINE)}


def _env() -> dict[str, str]:
    """Of the image that runs, the last stage."""
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE.rpartition("\nFROM ")[2], re.MULTILINE)
    return dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())


def _runs(command: str) -> str:
    """The RUN instruction with this in it."""
    blocks = re.findall(r"^RUN ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    (found,) = (block.replace("\\\n", " ") for block in blocks if command in block)
    return str(found)


def _bash(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As the SHELL of the Dockerfile does."""
    shell = json.loads(re.findall(r"^SHELL (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
    return subprocess.run([*shell, command], env=env, capture_output=True, text=True, timeout=60)


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "broken", [("USER 1000:100", "USER ray"), ("--no-cache-dir ", ""), ("WORKDIR /opt/nli-serve", "WORKDIR opt")]
)
def test_hadolint_finds_something_where_it_should(tmp_path: Path, broken: tuple[str, str]) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace(*broken))

    assert subprocess.run(
        [Path(sys.executable).parent / "hadolint", tmp_path / "Dockerfile"], capture_output=True
    ).returncode


def test_what_is_copied_is_let_through_and_nothing_else() -> None:
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }

    assert IGNORED[1] == "*"
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == copied
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_the_environment_is_the_fast_profile_with_the_long_drain() -> None:
    fast = {name: value for name, value in FAST.items() if name != "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"}

    assert (COMMON | fast).items() <= _env().items()
    assert _env().keys() - (COMMON | fast).keys() == {"HF_HOME", "PYTHONUNBUFFERED", "TZ"}


def test_the_user_is_that_of_the_pods() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    security = build("cpu").group["template"]["spec"]["securityContext"]

    assert users[-1] == f"{security['runAsUser']}:{security['runAsGroup']}"


def test_the_weights_are_those_of_the_served_commit() -> None:
    names = _args()["MODEL_FILES"].split()

    assert (_args()["MODEL"], _args()["REVISION"]) == (SERVED["name"], SERVED["revision"])
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(names)
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in FILES)] == []
    for overlay in OVERLAYS:
        assert {**build(overlay).args["model"], "name": "", "revision": ""}.keys() == SERVED.keys() | {"threads"}


@pytest.mark.parametrize(("files", "sound"), [("config.json", True), ("nowhere.json config.json", False)])
def test_the_weights_are_fetched_into_the_cache_that_the_image_reads_or_the_build_ends(
    hub: Hub, tmp_path: Path, files: str, sound: bool
) -> None:
    names = {"MODEL": "owner/model", "REVISION": COMMIT, "MODEL_FILES": files}
    there = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    hf = tmp_path / "bin" / "hf"  # by this interpreter, wherever its environment was copied from
    hf.parent.mkdir()
    hf.write_text(f'#!/bin/bash\nexec {sys.executable} -c "from huggingface_hub.cli.hf import main; main()" "$@"\n')
    hf.chmod(0o755)

    done = _bash(_runs("hf download"), PATH=f"{hf.parent}:{os.environ['PATH']}", HOME=str(tmp_path), **names, **there)

    assert (done.returncode == 0) == sound, done.stderr
    fetched = tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT / "config.json"
    assert fetched.is_file() == sound


def test_the_self_check_looks_for_all_that_probes_and_hooks_call() -> None:
    tools = set(_looked_for())
    hook = build("cpu").group["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][0]

    assert {"bash", "wget", "grep", "ray", hook} <= tools  # KubeRay's readiness probe is bash, wget and grep


@pytest.mark.parametrize("wrong", [None, "bash", "wget", "ray", "nli-serve", "python"])
def test_the_self_check_ends_the_build_where_a_tool_is_missing_or_fails(tmp_path: Path, wrong: str | None) -> None:
    for tool in {*_looked_for(), "python"} - {wrong}:
        (tmp_path / tool).symlink_to("/bin/true")
    if wrong == "python":
        (tmp_path / wrong).symlink_to("/bin/false")

    done = _bash(_runs("command -v"), PATH=str(tmp_path))

    assert (done.returncode == 0) == (wrong is None), done.stdout


def _looked_for() -> list[str]:
    (tools,) = re.findall(r"for tool in ([\w -]+);", _runs("command -v"))
    return str(tools).split()


def test_the_versions_agree() -> None:
    ray, torch, ours = CONSTRAINTS["ray"], "2.13.0", PROJECT["version"]

    assert f"torch=={torch}" in PROJECT["optional-dependencies"]["server"]
    assert f" torch=={torch} " in DOCKERFILE
    assert f'version="{ours}"' in DOCKERFILE
    assert f"version('ray') == '{ray}'" in DOCKERFILE
    assert set(re.findall(r"rayproject/ray:([\d.]+)-py(\d+)-", DOCKERFILE)) == {(ray, "311")}
    assert PROJECT["requires-python"] == ">=3.11"
    for overlay in OVERLAYS:
        manifests = build(overlay)
        image = manifests.head["template"]["spec"]["containers"][0]["image"]
        assert manifests.cluster["rayVersion"] == ray
        assert image.rpartition(":")[2] == f"{ours}-{'gpu' if 'gpu' in overlay else 'cpu'}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_name_no_other_version(page: Path) -> None:
    text = page.read_text()

    assert set(re.findall(r"rayproject/ray:([\d.]+\d)", text)) <= {CONSTRAINTS["ray"]}
    assert set(re.findall(r"nli-serve:(\d[\d.]*\d)", text)) <= {PROJECT["version"]}
    assert set(re.findall(r"(?<!Kube)Ray (\d\.\d+\.\d+)", text)) <= {CONSTRAINTS["ray"]}
    assert set(re.findall(r"Kubernetes (\d\.\d+)", text)) <= {VERSIONS[0]}
