"""The FastAPI application that is measured: a sync endpoint around the pipeline. Set by the environment."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from threading import Semaphore

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.systems.pipeline import ask, load

BATCH_SIZE = int(os.environ["BENCH_BATCH_SIZE"])
AT_A_TIME = int(os.environ["BENCH_AT_A_TIME"])  # requests in the pipeline; 0: as many as FastAPI has threads
PIPE = load(os.environ["BENCH_MODEL"], int(os.environ["BENCH_THREADS"]))
TURN: AbstractContextManager[object] = Semaphore(AT_A_TIME) if AT_A_TIME else nullcontext()

app = FastAPI()


class Body(BaseModel):
    """A request."""

    texts: list[str]
    labels: list[str]


@app.post("/classify")
def classify(body: Body) -> list[list[float]]:
    """Scores in the order of the labels."""
    with TURN:
        return ask(PIPE, body.texts, body.labels, BATCH_SIZE)
