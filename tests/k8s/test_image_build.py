"""The image is built, every line of the Dockerfile, by Debian's buildah on a base that stands in for Ray's.

No registry is needed: the base is an empty file system with the users of Ray's image and a Python environment, and
this machine's programs and this environment's packages are mounted into each RUN. So pip finds what the Dockerfile
asks for already there, and the weights come from a stand-in of the Hub. What this cannot show is in k8s/README.md.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.commands.test_pull import Hub, hub
from tests.k8s.manifests import ROOT
from tests.k8s.test_image import DOCKERFILE, _args
from tests.tiny import save_roberta

__all__ = ["hub"]  # a fixture

BASE = "/opt/base"  # the environment of the stand-in, as conda's is of Ray's image
SITE = f"{BASE}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
PACKAGES = sysconfig.get_paths()["purelib"]


@dataclass(frozen=True)
class Builder:
    """buildah with images of its own, which go with the folder."""

    folder: Path

    def run(self, *command: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        store = ["--storage-driver", "vfs", "--root", str(self.folder / "store"), "--runroot", str(self.folder / "run")]
        return subprocess.run(
            ["buildah", *store, *command], capture_output=True, text=True, timeout=timeout_s, cwd=self.folder
        )

    def build(self, context: Path, *options: str) -> subprocess.CompletedProcess[str]:
        mounts = ["/usr", PACKAGES, sys.base_prefix]
        volumes = [word for path in mounts for word in ("--volume", f"{path}:{path}:ro")]
        how = ["--isolation", "chroot", "--format", "docker", *volumes]
        return self.run("build", *how, *options, str(context))


@pytest.fixture
def builder(tmp_path: Path, long: bool) -> Iterator[Builder]:
    if not long:
        pytest.skip("builds an image: make test-long")
    if shutil.which("buildah") is None or os.geteuid() != 0:
        pytest.skip("needs root, and buildah: apt-get install buildah")
    builder = Builder(tmp_path)
    _make_base(tmp_path / "base")
    done = builder.build(tmp_path / "base", "--tag", "base")
    assert done.returncode == 0, done.stderr
    yield builder
    builder.run("rm", "--all")
    builder.run("rmi", "--all", "--force")


def _make_base(folder: Path) -> None:
    root = folder / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/bash\nray:x:1000:100::/home/ray:/bin/bash\n")
    (root / "etc" / "group").write_text("root:x:0:\nusers:x:100:\n")
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("usr", "opt", "home/ray", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    base = root / BASE.removeprefix("/")
    packages = root / SITE.removeprefix("/")
    packages.mkdir(parents=True)
    (packages / "mounted.pth").write_text(f"{PACKAGES}\n")
    (base / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    (base / "bin").mkdir()
    (base / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    tools = {"pip": "pip._internal.cli.main", "hf": "huggingface_hub.cli.hf", "ray": "ray.scripts.scripts"}
    for name, module in tools.items():
        script = base / "bin" / name
        script.write_text(f"#!{BASE}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    env = {"PATH": f"{BASE}/bin:/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    lines = ["FROM scratch", "COPY root/ /", *(f"ENV {name}={value}" for name, value in env.items())]
    lines += ["RUN chown 1000:100 /home/ray", "USER 1000:100"]
    (folder / "Dockerfile").write_text("\n".join(lines))


@pytest.mark.timeout(300)
def test_the_image_is_built_and_is_what_the_pods_expect(builder: Builder, hub: Hub) -> None:
    hub.repo, hub.commit = _args()["MODEL"], _args()["REVISION"]
    model = save_roberta(builder.folder / "model")
    named = _args()["MODEL_FILES"].split()
    hub.files = {name: (model / name).read_bytes() if (model / name).is_file() else b"{}" for name in named}
    hub.stated = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    there = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    env = [word for name, value in there.items() for word in ("--env", f"{name}={value}")]

    done = builder.build(ROOT, "--build-arg", "BASE_IMAGE=localhost/base", *env, "--tag", "nli-serve")

    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert "is here already" in done.stdout + done.stderr
    (name,) = builder.run("from", "nli-serve").stdout.split()
    (root,) = builder.run("mount", name).stdout.split()
    inside = Path(root)
    files = {path.relative_to(inside / "opt/nli-serve").parts[0] for path in (inside / "opt/nli-serve").iterdir()}
    assert {"clients", "deployments", "serve_config.yaml"} <= files
    assert files & {"tests", "k8s", ".git", "docs"} == set()
    assert oct((inside / "opt/models").stat().st_mode & 0o005) == "0o5"
    config = builder.run("inspect", "--format", "{{.OCIv1.Config.User}} {{.OCIv1.Config.WorkingDir}}", "nli-serve")
    assert config.stdout.split() == ["1000:100", "/home/ray"]
    assert (inside / SITE.removeprefix("/") / "deployments" / "graph.py").is_file()  # installed, not only copied
    steps = re.findall(r"STEP \d+/\d+: (?:FROM|RUN|COPY|ENV|ARG|USER|WORKDIR|LABEL|SHELL)", done.stdout + done.stderr)
    lines = re.findall(r"^(?:FROM|RUN|COPY|ENV|ARG|USER|WORKDIR|LABEL|SHELL) ", DOCKERFILE, re.MULTILINE)
    assert len(steps) == len(lines) - 1, steps  # the base's ARG stands before the first stage
