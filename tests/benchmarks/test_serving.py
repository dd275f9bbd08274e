"""The benchmark counts right answers only: a system that mixes them up is found out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from benchmarks.serving import rounds
from benchmarks.serving.__main__ import matching
from benchmarks.serving.cells import Cell, Request, cells
from benchmarks.serving.expected import BOUNDS, Answer, Expected, WrongAnswer, expect
from benchmarks.serving.lineup import Entry, lineup
from benchmarks.serving.load import run
from benchmarks.serving.report import Results, goals
from benchmarks.serving.rounds import Bench
from benchmarks.serving.systems.bare import Bare
from benchmarks.serving.systems.ours import Ours
from benchmarks.serving.systems.pipeline import Setting
from clients.commands.capacity import Supply
from clients.commands.check import check
from deployments.engines.protocol import Engine, FloatArray, Pair
from deployments.engines.samples import EVALUATION
from deployments.engines.torch import Device, TorchEngine
from tests.tiny import save_roberta

LABELS = ("billing", "repair", "holiday", "numbers", "language")
TEXTS = [sample.text for sample in EVALUATION[:12]]
REQUESTS = [Request((TEXTS[i], TEXTS[i + 1]), LABELS) for i in range(0, 12, 2)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return TorchEngine(save_roberta(tmp_path_factory.mktemp("model")), "fp32", Device("cpu"))


@pytest.fixture(scope="module")
def expected(engine: Engine) -> Expected:
    return expect(engine, REQUESTS)


class Shuffled:
    """An engine whose answers are right, and go to the wrong pairs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.streams = engine.streams

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        return self._engine.pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        table = self._engine.logits(pairs)
        order = list(range(len(pairs)))
        random.Random(0).shuffle(order)
        return table[order]


def answers(engine: Engine) -> list[Answer]:
    own = expect(engine, REQUESTS)
    return [own.answer(request) for request in REQUESTS]


def test_right_answers_pass_in_any_company(engine: Engine, expected: Expected) -> None:
    alone = [expect(engine, [request]).answer(request) for request in REQUESTS]

    found = expected.check("fp32", REQUESTS, alone)

    assert found.largest < 1e-5


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_shuffled_engine_is_rejected(precision: str, engine: Engine, expected: Expected) -> None:
    with pytest.raises(WrongAnswer):
        expected.check(precision, REQUESTS, answers(Shuffled(engine)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # the tiny model's scores hardly depend on the text
def test_another_requests_answers_are_rejected(precision: str, engine: Engine, expected: Expected) -> None:
    right = answers(engine)

    with pytest.raises(WrongAnswer):
        expected.check(precision, REQUESTS, [*right[1:], right[0]])


def test_a_missing_text_is_rejected(engine: Engine, expected: Expected) -> None:
    first, *rest = answers(engine)

    with pytest.raises(WrongAnswer):
        expected.check("fp32", REQUESTS, [first[:1], *rest])


class Canned:
    """A system that answers at once, as an engine that was asked before."""

    name, precision = "canned", "fp32"

    def __init__(self, known: Expected) -> None:
        self._known = known

    def start(self, model: Path, scratch: Path) -> None: ...

    def ask(self, request: Request) -> Answer:
        return [[0.5] * len(request.labels)] if request.labels == ("a", "b") else self._known.answer(request)

    def stop(self) -> None: ...


def test_the_load_keeps_the_order_of_requests(expected: Expected) -> None:
    got = [answer for answer, _ in run(Canned(expected), REQUESTS, clients=3)]

    assert got == [expected.answer(request) for request in REQUESTS]


def test_a_shuffled_system_gets_no_figures_and_the_others_do(
    engine: Engine, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("cell", tuple(REQUESTS), clients=2)
    shuffled = Canned(expect(Shuffled(engine), REQUESTS))
    bench = Bench(Path(), Path(), [cell], [cell], expected)
    monkeypatch.setattr(rounds, "SETTLE_S", 0)

    bench.round([Entry("right", Canned(expected), peer=True), Entry("wrong", shuffled, peer=True)], 0, lambda: None)

    assert set(bench.results.values) == {"right"}
    assert [problem.split(":")[1].strip() for problem in bench.problems] == ["WrongAnswer"]


class Recorded(Bare):
    """A bare engine that remembers what it was asked."""

    def __init__(self, known: Expected) -> None:
        super().__init__("torch", "fp32")
        self._canned = Canned(known)
        self.asked: list[tuple[Request, ...]] = []

    def start(self, model: Path, scratch: Path) -> None: ...

    def ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        self.asked.append(tuple(requests))
        return [self._canned.ask(request) for request in requests]


def test_a_bare_engine_is_warmed_once_for_the_same_pairs_in_whatever_lists(
    expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, (other, *_) = REQUESTS[:2], REQUESTS[2:]
    texts = [Request((text,), one.labels) for one in lists for text in one.texts]
    every = [Cell(name, tuple(asked), 1) for name, asked in (("lists", lists), ("texts", texts), ("other", [other]))]
    bare = Recorded(expected)
    monkeypatch.setattr("benchmarks.serving.load.MAX_PASSES", 1)
    monkeypatch.setattr(Bench, "_probe", lambda *_: None)

    bench = Bench(Path(), Path(), every, every, expected)
    bench.round([Entry("bare", bare)], 0, lambda: None)

    assert bench.problems == []
    of_cells = [every[i].requests for i in (0, 0, 1, 2, 2)]  # warmed and measured, but for the second, which is known
    assert bare.asked[1:] == of_cells


def test_a_ratio_is_that_of_each_round_and_a_missed_goal_is_told() -> None:
    results = Results()
    for ours, bare in ((80.0, 100.0), (95.0, 100.0), (30.0, 40.0)):
        results.add("ours fp32", "base", ours)
        results.add("bare fp32", "base", bare)

    table = list(goals(results, "base", "crowd", "repeated"))

    assert table[2] == ("of the bare engine, base", ">= 0.9 x", "0.80 x: not reached", "-")


def test_no_text_comes_twice_in_a_cell() -> None:
    for cell in cells():
        texts = [text for request in cell.requests for text in request.texts]
        assert len(set(texts)) == len(texts), cell.name


def test_four_in_five_texts_of_repeated_traffic_were_asked_before() -> None:
    (cell,) = (cell for cell in cells() if cell.warm)
    known = {text for request in cell.warm for text in request.texts}
    texts = [text for request in cell.requests for text in request.texts]

    assert 0.78 < sum(text in known for text in texts) / len(texts) < 0.83


def test_our_own_configuration_is_one_that_check_passes(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(yaml.safe_dump(Ours("torch", "fp32").config(save_roberta(tmp_path / "model"), port=8000)))

    assert check(file, lambda _: Supply("any machine")) == []


def test_on_a_gpu_ours_are_configurations_that_check_passes_and_share_it_out(tmp_path: Path) -> None:
    model, file = save_roberta(tmp_path / "model"), tmp_path / "ours.yaml"
    entries = lineup(Setting(256, threads=1, at_a_time=2, device="cuda", precision="fp16"))
    shares = []
    for system in [entry.system for entry in entries if isinstance(entry.system, Ours)]:
        assert isinstance(system, Ours)
        file.write_text(yaml.safe_dump(system.config(model, port=8000)))
        assert check(file, lambda _: Supply("a machine", cpus=16, gpus=1)) == []
        classifier = system.config(model, port=8000)["applications"][0]["deployments"][1]
        shares.append((classifier["num_replicas"], classifier["ray_actor_options"]["num_gpus"]))
        assert classifier["user_config"]["max_batch_tokens"] == 16_384

    assert shares == [(1, 1), (4, 0.25), (1, 1)]


def test_everybody_on_a_gpu_computes_there() -> None:
    for entry in lineup(Setting(256, threads=1, at_a_time=2, device="cuda", precision="fp16")):
        assert "cuda" in repr(vars(entry.system)), entry.key


def test_a_part_of_a_name_chooses_and_one_that_is_in_none_ends_it_with_all_there_are() -> None:
    names = ["base: 5 labels, mixed", "1 label", "32 labels"]

    assert matching(["base", "32"], names) == ["base: 5 labels, mixed", "32 labels"]
    with pytest.raises(SystemExit, match=r"'Base' is in none of these names:\n  base: 5 labels, mixed\n  1 label"):
        matching(["32", "Base"], names)
