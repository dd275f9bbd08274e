"""`python -m clients.examples.handle_job` on a real cluster, as a submitted job and by itself."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import ray

from clients.commands.keys import create

from .conftest import Cluster, Deploy
from .jobs import submit

LINES = [
    '{"text": "a cracked screen needs repair"}',
    '{"text": "the billing was wrong", "id": 7}',
    "",
    '{"text": "repair',
    '{"subject": "repair"}',
    '{"text": " "}',
    *(json.dumps({"text": f"{('billing', 'repair')[i % 2]} {i}"}) for i in range(6, 1_000)),
]
BEFORE = '{"row": 0, "label": "repair", "score": 0.5, "scores": {"repair": 0.5, "billing": 0.5}, "truncated": false}\n'
CUT_OFF = '{"row": 1, "label": "bil'


def _words(input: Path, output: Path, app: str) -> list[str]:
    words = ["clients.examples.handle_job", input, output, "--labels", "billing,repair", "--app", app]
    return [sys.executable, "-m", *map(str, words)]


def test_a_submitted_job_goes_on_and_gives_each_row_its_own_line(
    cluster: Cluster, deploy: Deploy, tmp_path: Path
) -> None:
    _, key = create(tmp_path / "keys.json", "data", None, None, datetime.now(UTC))
    (tmp_path / "key.env").write_text(f"export NLI_API_KEY={key}\n")
    (tmp_path / "in.jsonl").write_text("\n".join(LINES))
    (tmp_path / "out.jsonl").write_text(BEFORE + CUT_OFF)
    app = deploy(app={"auth": "required", "keys_file": str(tmp_path / "keys.json")})
    words = _words(tmp_path / "in.jsonl", tmp_path / "out.jsonl", app.name)

    printed = submit(cluster, "sh", "-c", f". {tmp_path}/key.env && exec {shlex.join(words)}")

    assert "1,000 rows: 996 classified, 4 with an error\n" in printed
    assert key not in printed
    written = (tmp_path / "out.jsonl").read_text()
    rows = {row["row"]: row for row in map(json.loads, written.splitlines())}
    assert (written.startswith(BEFORE), written.count("\n"), len(rows)) == (True, 1_000, 1_000)
    assert [rows[row].get("error") for row in range(2, 6)] == [
        "the line cannot be read: it is blank",
        "the line cannot be read: Unterminated string starting at: line 1 column 10 (char 9)",
        'the line cannot be read: it is no object with a string "text"',
        "/text: is blank; give it some text",
    ]
    assert [rows[row].get("label") for row in range(2)] == ["repair", "billing"]
    assert [rows[row].get("label") for row in range(6, 1_000)] == ["billing", "repair"] * 497


def test_an_application_that_does_not_run_is_one_message(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a cracked screen\n")
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    words = _words(tmp_path / "in.txt", tmp_path / "out.jsonl", "other")

    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("Error: no application 'other' runs on this Ray cluster; start it")
    assert "Traceback" not in done.stderr
