"""Right answers from the running server, with the embedded model's real weights."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import App, Deploy

MAX_PAIRS = 4_096  # of one request
ACCURACY = {"snips": 0.749, "banking77": 0.623, "clinc150": 0.702, "hwu64": 0.522}  # of the sets' SOURCES.md
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def app(deploy: Deploy) -> App:
    """Each run of the engine takes a whole request: small ones, as for callers who wait, take twice the time."""
    return deploy("embedded", {"user_config": {"max_batch_tokens": 65_536}})


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ("My phone screen is cracked", "repair"),
        ("I was charged twice this month", "billing"),
        ("Two weeks on the beach in Greece", "holiday"),
    ],
)
def test_the_label_that_fits_comes_first(app: App, text: str, best: str) -> None:
    answer = app.http.post("/v1/classify", json={"text": text, "labels": ["billing", "holiday", "repair"]}).json()

    assert answer["results"][0]["labels"][0] == best
    assert (answer["model"], answer["fallback"]) == ("sentence-transformers/all-MiniLM-L6-v2", False)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ACCURACY)
def test_accuracy_is_that_of_the_published_figures(app: App, name: str) -> None:
    if "EVAL_DATA_DIR" not in os.environ:
        pytest.skip("EVAL_DATA_DIR names no folder with the labelled sets")
    with Path(os.environ["EVAL_DATA_DIR"], f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    labels = sorted({label for _, label in rows})

    guesses = [guess for texts in _cut([text for text, _ in rows], labels) for guess in _best(app, texts, labels)]

    right = sum(guess == label for guess, (_, label) in zip(guesses, rows, strict=True))
    assert right / len(rows) == pytest.approx(ACCURACY[name], abs=TOLERANCE)


def _cut(texts: list[str], labels: list[str]) -> Iterator[list[str]]:
    size = min(256, MAX_PAIRS // len(labels))
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def _best(app: App, texts: list[str], labels: list[str]) -> list[str]:
    response = app.http.post("/v1/classify", json={"text": texts, "labels": labels, "top_k": 1})
    assert response.status_code == 200, response.text
    return [result["labels"][0] for result in response.json()["results"]]
