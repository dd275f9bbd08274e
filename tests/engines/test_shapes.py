from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.contract.model import EngineName
from deployments.engines.inputs import IdArray, Inputs
from deployments.engines.protocol import Pair
from deployments.engines.shapes import PER_OCTAVE, recurring, rounded_up

from .conftest import LoadEngine

NUMBERS = st.integers(min_value=1, max_value=1 << 20)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (16, 16), (17, 18), (31, 32), (33, 36), (65, 72), (512, 512)])
def test_a_number_is_rounded_up_to_one_that_comes_again(n: int, expected: int) -> None:
    assert rounded_up(n) == expected


@given(n=NUMBERS)
def test_at_most_an_eighth_is_added(n: int) -> None:
    assert n <= rounded_up(n) <= n + n / PER_OCTAVE


@given(n=NUMBERS)
def test_a_rounded_number_stays(n: int) -> None:
    assert rounded_up(rounded_up(n)) == rounded_up(n)


@given(a=NUMBERS, b=NUMBERS)
def test_more_is_never_rounded_to_less(a: int, b: int) -> None:
    assert rounded_up(min(a, b)) <= rounded_up(max(a, b))


@pytest.mark.parametrize("octave", range(3, 12))
def test_there_are_eight_numbers_to_an_octave(octave: int) -> None:
    assert len({rounded_up(n) for n in range(1 << octave, 2 << octave)} - {2 << octave}) == PER_OCTAVE


def test_no_shape_is_wider_than_the_model_takes() -> None:
    assert recurring(17, 65, 512) == (18, 72)
    assert recurring(17, 65, 66) == (18, 66)


@pytest.mark.parametrize("model", ["roberta", "bert"])
@pytest.mark.parametrize(
    ("name", "reference", "within"), [("openvino-fp32", "torch-fp32", 1e-5), ("openvino-int8", "openvino-int8", 0.05)]
)
def test_openvino_runs_in_shapes_that_come_again_and_answers_for_the_pairs_alone(
    model: str,
    name: EngineName,
    reference: EngineName,
    within: float,
    load_engine: LoadEngine,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(model)
    engine = load_engine(folder, name)
    pairs = [row[0] for row in engine.pairs([f"{'7 ' * (n + 4)}card {n}" for n in range(33)], ["refund"])]
    other = load_engine(folder, reference)
    alone = np.concatenate([other.logits([pair]) for pair in pairs])
    shapes = _shapes(monkeypatch)

    for n in (1, 16, 17, 33):
        np.testing.assert_allclose(engine.logits(pairs[:n]), alone[:n], rtol=0, atol=within)

    widths = [pairs[n - 1].n_tokens for n in (1, 16, 17, 33)]
    assert shapes == [(n, rounded_up(width)) for n, width in zip((1, 16, 18, 36), widths, strict=True)]
    assert any(rounded_up(width) > width for width in widths)


def _shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Of all batches from now on."""
    found = []
    rows = Inputs.rows

    def record(self: Inputs, pairs: Sequence[Pair], shape: tuple[int, int] | None = None) -> dict[str, IdArray]:
        made = rows(self, pairs, shape)
        found.append(made["input_ids"].shape)
        return made

    monkeypatch.setattr(Inputs, "rows", record)
    return found
