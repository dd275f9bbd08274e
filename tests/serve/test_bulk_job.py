"""`ray job submit -- python -m clients.examples.bulk_job` on a real cluster: a pool of actors, a real model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from clients.examples.bulk.question import question
from clients.examples.bulk.scoring import Answer, Scorer
from deployments.contract.args import ModelArgs
from deployments.engines.resolve import load, resolve
from tests.tiny import save_roberta

from .conftest import Cluster
from .jobs import submit

TEXTS = ["My card was charged twice.", "The screen is cracked", "a holiday in the mountains " * 10]
SUMMARY = "12 rows: 9 classified, 3 with an error; "


def _answers(args: ModelArgs, cells: list[str | None]) -> list[Answer]:
    """What the job should find, by the same engine in this process."""
    threads = torch.get_num_threads()
    model = resolve(args)
    asked = question(["billing", "repair"], multi_label=False, template=None)
    try:
        return list(Scorer(load(model, args, 0), asked, model.template, 1_024).answers(cells))
    finally:
        torch.set_num_threads(threads)


def test_a_submitted_job_classifies_files_and_does_not_do_it_again(cluster: Cluster, tmp_path: Path) -> None:
    model = ModelArgs(name=str(save_roberta(tmp_path / "model")), threads=1)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"applications": [{"args": {"model": model.model_dump()}}]}))
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": [*TEXTS[:2], None, TEXTS[2]]}), tmp_path / "in" / "a.parquet")
    lines = [f"{i},{text}\n" for i, text in enumerate(TEXTS)]
    (tmp_path / "in" / "b.csv").write_text("".join(["id,text\n", *lines[:2], "broken\n", lines[2]]))
    objects = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "in" / "c.jsonl").write_text("\n".join([*objects[:2], "{broken", objects[2]]))
    job: list[str | Path] = [sys.executable, "-m", "clients.examples.bulk_job", tmp_path / "in", tmp_path / "out"]
    job += ["--labels", "billing,repair", "--config", config]

    first = submit(cluster, *job)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    second = subprocess.run(job, capture_output=True, text=True, timeout=60)  # needs no Ray, as nothing is left to do

    assert f"{SUMMARY}0 shards done before, 3 now" in first
    assert (second.returncode, second.stdout) == (0, f"{SUMMARY}3 shards done before, 0 now\n")
    assert not any(text in first for text in TEXTS)
    expected = _answers(model, [*TEXTS[:2], None, TEXTS[2]])
    for file in ("a.parquet", "b.csv", "c.jsonl"):
        mine = [row for row in rows if row["file"] == file]
        assert [row["row"] for row in mine] == [0, 1, 2, 3]
        assert [row["label"] for row in mine] == [answer["label"] for answer in expected]
        for column in ("score", "truncated"):
            assert [row[column] for row in mine] == pytest.approx([answer[column] for answer in expected], abs=1e-5)
        assert [row["error"] is None for row in mine] == [True, True, False, True]
