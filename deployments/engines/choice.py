"""Which engine computes: a rule over the configuration and the machine, never a race.

What `auto` gives depends on nothing but the configuration, the packages that are installed, the CPU's
instructions and the model's family, so that every replica of one image on one kind of machine gives the same
answers. Speed is measured by `nli-serve tune`, which tells people what to configure. docs/adr/0009 says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from deployments.contract.args import PRECISIONS, ModelArgs
from deployments.contract.model import EngineName

from .refusal import StartRefused

CPU_ENGINES = ("openvino", "onnx")  # `auto` takes the first that can; both equal torch in fp32
FAMILIES = {  # `model_type`s whose export was compared with torch, whole and padded; `auto` trusts no other
    "albert",
    "bert",
    "deberta",
    "deberta-v2",
    "electra",
    "mpnet",
    "roberta",
    "xlm-roberta",
}
PACKAGES = {"torch": ("torch",), "onnx": ("onnxruntime", "onnx"), "openvino": ("openvino", "nncf")}
INSTRUCTIONS = {  # one of each is needed, as /proc/cpuinfo names them on x86 and on ARM
    "bf16": ("amx_bf16", "avx512_bf16", "bf16"),  # without them OpenVINO computes in fp32, and says nothing
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm"),  # without them sums of products overflow
}
_NAMES: dict[tuple[str, str], EngineName] = {
    (name.partition("-")[0], name.partition("-")[2]): name for name in get_args(EngineName)
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine can compute with."""

    packages: frozenset[str]
    """Of those in `PACKAGES`, which are installed."""

    instructions: frozenset[str]
    """The CPU's flags."""


@cache
def this_machine() -> Machine:
    """Looked at once; no package is imported."""
    wanted = {package for packages in PACKAGES.values() for package in packages}
    installed = frozenset(package for package in wanted if find_spec(package) is not None)
    return Machine(installed, _instructions(Path("/proc/cpuinfo")))


def choose(args: ModelArgs, machine: Machine, model_type: str | None = None) -> EngineName:
    """The engine of an NLI model.

    Args:
        model_type: the family, of the model's config.json; None: not known.

    Raises:
        StartRefused: what is configured cannot be computed on this machine.
    """
    name = _automatic(args, machine, model_type) if args.engine == "auto" else _NAMES[args.engine, args.precision]
    refuse_unable(name, machine)
    return name


def refuse_unable(name: EngineName, machine: Machine) -> None:
    """Let pass what the machine can compute with.

    Raises:
        StartRefused: a package or an instruction is missing; the message says what to install or set.
    """
    if problem := _lacking(name, machine):
        raise StartRefused(problem)


def _automatic(args: ModelArgs, machine: Machine, model_type: str | None) -> EngineName:
    if args.precision == "int8":
        return "openvino-int8"
    if args.device == "cpu" and model_type in FAMILIES:  # `auto` may turn out to be a GPU, which is torch's
        for engine in CPU_ENGINES:
            name = _NAMES.get((engine, args.precision))
            if name and not _lacking(name, machine):
                return name
    return _NAMES["torch", args.precision]


def _lacking(name: EngineName, machine: Machine) -> str | None:
    engine, _, precision = name.partition("-")
    missing = [package for package in PACKAGES.get(engine, ()) if package not in machine.packages]
    if missing:
        extra = "server" if engine == "torch" else engine
        others = [other for other in PRECISIONS if other != engine and precision in PRECISIONS[other]]
        instead = f"model.engine: {others[0]}" if others else "model.precision: fp32"
        return (
            f"the engine {name} needs {' and '.join(missing)}, not installed here; pip install 'nli-serve[{extra}]', "
            f"or set {instead}"
        )
    needed = INSTRUCTIONS.get(precision, ()) if engine == "openvino" else ()
    if needed and machine.instructions.isdisjoint(needed):
        return (
            f"the engine {name} needs a CPU with one of {', '.join(needed)}, which this one lacks; set "
            "model.precision: fp32"
        )
    return None


def _instructions(cpuinfo: Path) -> frozenset[str]:
    """The flags of the first core; none where the file is missing."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":") for line in lines)
    return next((frozenset(v.split()) for key, _, v in named if key.strip() in ("flags", "Features")), frozenset())
