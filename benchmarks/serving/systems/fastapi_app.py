"""The FastAPI application that is measured: a sync endpoint around the pipeline. Set by the environment."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from threading import Semaphore

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.systems.pipeline import Setting, ask, load

SETTING = Setting(**json.loads(os.environ["BENCH_SETTING"]))
PIPE = load(os.environ["BENCH_MODEL"], SETTING)
TURN: AbstractContextManager[object] = Semaphore(SETTING.at_a_time) if SETTING.at_a_time else nullcontext()

app = FastAPI()


class Body(BaseModel):
    """A request."""

    texts: list[str]
    labels: list[str]


@app.post("/classify")
def classify(body: Body) -> list[list[float]]:
    """Scores in the order of the labels."""
    with TURN:
        return ask(PIPE, body.texts, body.labels, SETTING.batch_size)
