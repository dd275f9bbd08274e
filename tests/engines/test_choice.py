"""The rule, without a look at the machine that runs the test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.contract.args import ModelArgs
from deployments.engines.choice import Machine, _instructions, choose, this_machine
from deployments.engines.refusal import StartRefused

ALL = frozenset({"torch", "onnxruntime", "onnx", "openvino", "nncf"})
NO_OPENVINO, TORCH_ONLY = ALL - {"openvino", "nncf"}, frozenset({"torch"})
MODERN = frozenset({"avx512_bf16", "avx512_vnni"})
OLD = frozenset({"avx2"})


def _args(**fields: Any) -> ModelArgs:
    return ModelArgs.model_validate({"name": "/model", **fields})


@pytest.mark.parametrize(
    ("fields", "packages", "instructions", "family", "expected"),
    [
        # Where the device may turn out to be a GPU, `auto` is torch.
        ({}, ALL, MODERN, "roberta", "torch-fp32"),
        ({"precision": "bf16"}, ALL, MODERN, "roberta", "torch-bf16"),
        ({"device": "cuda"}, ALL, MODERN, "roberta", "torch-fp32"),
        # On the CPU it is the first that is installed and computes in that precision.
        ({"device": "cpu"}, ALL, OLD, "roberta", "openvino-fp32"),
        ({"device": "cpu"}, NO_OPENVINO, MODERN, "roberta", "onnx-fp32"),
        ({"device": "cpu"}, TORCH_ONLY, MODERN, "roberta", "torch-fp32"),
        ({"device": "cpu", "precision": "bf16"}, ALL, MODERN, "roberta", "openvino-bf16"),
        ({"device": "cpu", "precision": "bf16"}, ALL, OLD, "roberta", "torch-bf16"),
        ({"device": "cpu", "precision": "bf16"}, NO_OPENVINO, MODERN, "roberta", "torch-bf16"),
        # A family whose export nobody has compared stays with torch.
        ({"device": "cpu"}, ALL, MODERN, "bart", "torch-fp32"),
        ({"device": "cpu"}, ALL, MODERN, None, "torch-fp32"),
        # int8 is OpenVINO's, and only when it is asked for.
        ({"precision": "int8"}, ALL, MODERN, "bart", "openvino-int8"),
        # A name is a name.
        ({"engine": "torch", "device": "cpu"}, ALL, MODERN, "roberta", "torch-fp32"),
        ({"engine": "torch", "precision": "bf16"}, ALL, OLD, "roberta", "torch-bf16"),
        ({"precision": "fp16"}, ALL, MODERN, "roberta", "torch-fp16"),
        ({"device": "cuda", "precision": "fp16"}, ALL, MODERN, "roberta", "torch-fp16"),
        ({"engine": "onnx"}, ALL, OLD, "bart", "onnx-fp32"),
        ({"engine": "openvino"}, ALL, OLD, "roberta", "openvino-fp32"),
        ({"engine": "openvino", "precision": "bf16"}, ALL, MODERN, "roberta", "openvino-bf16"),
        ({"engine": "openvino", "precision": "int8"}, ALL, MODERN, "roberta", "openvino-int8"),
    ],
)
def test_what_computes_follows_from_configuration_and_machine(
    fields: dict[str, str], packages: frozenset[str], instructions: frozenset[str], family: str | None, expected: str
) -> None:
    assert choose(_args(**fields), Machine(packages, instructions), family) == expected


@pytest.mark.parametrize(
    ("fields", "packages", "instructions", "message"),
    [
        (
            {"engine": "openvino"},
            NO_OPENVINO,
            MODERN,
            r"openvino-fp32 needs openvino and nncf, not installed here; pip install 'nli-serve\[openvino\]', "
            "or set model.engine: torch",
        ),
        ({"engine": "onnx"}, TORCH_ONLY, MODERN, r"needs onnxruntime and onnx, .*nli-serve\[onnx\]'"),
        (
            {"precision": "int8"},
            TORCH_ONLY,
            MODERN,
            r"needs .*\[openvino\]', or set model\.precision: fp32",
        ),
        (
            {"precision": "int8"},
            ALL,
            OLD,
            "openvino-int8 needs a CPU with one of amx_int8, .*precision: fp32",
        ),
        ({"engine": "openvino", "precision": "bf16"}, ALL, OLD, "openvino-bf16 needs a CPU with one of amx_bf16"),
    ],
)
def test_what_the_machine_cannot_compute_is_refused_with_what_to_do(
    fields: dict[str, str], packages: frozenset[str], instructions: frozenset[str], message: str
) -> None:
    with pytest.raises(StartRefused, match=message):
        choose(_args(**fields), Machine(packages, instructions), "roberta")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"engine": "torch", "precision": "int8"},
            "'torch' does not compute in int8; set model.engine to openvino",
        ),
        (
            {"engine": "onnx", "precision": "bf16"},
            "does not compute in bf16; set model.engine to torch or openvino",
        ),
        ({"engine": "onnx", "precision": "int8"}, "model.precision to fp32"),
        ({"engine": "openvino", "precision": "fp16"}, "does not compute in fp16; set model.engine to torch"),
        ({"device": "cpu", "precision": "fp16"}, "fp16 is computed on a GPU only, but model.device is cpu"),
        ({"engine": "openvino", "device": "cuda"}, "'openvino' in fp32 computes on the CPU only, but model.device is"),
        ({"engine": "onnx", "device": "cuda"}, "set model.device: cpu, or model.engine: torch"),
        ({"precision": "int8", "device": "cuda"}, "'auto' in int8 computes on the CPU only"),
        ({"name": "embedded", "engine": "onnx"}, "'embedded' has an engine of its own; remove it"),
    ],
)
def test_what_no_machine_can_compute_is_a_wrong_configuration(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _args(**fields)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor : 0\nflags\t\t: fpu avx512_vnni\n\nflags : other\n", {"fpu", "avx512_vnni"}),
        ("processor : 0\nFeatures\t: fp asimddp bf16\n", {"fp", "asimddp", "bf16"}),
        ("processor : 0\n", set()),
    ],
)
def test_instructions_are_those_of_the_first_core(text: str, flags: set[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)

    assert _instructions(tmp_path / "cpuinfo") == flags
    assert _instructions(tmp_path / "gone") == frozenset()


def test_a_look_at_the_machine_imports_nothing() -> None:
    code = """
import sys
from deployments.engines.choice import this_machine
print(sorted(this_machine().packages))
sys.exit(bool({"torch", "onnxruntime", "onnx", "openvino", "nncf"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(this_machine().packages))
