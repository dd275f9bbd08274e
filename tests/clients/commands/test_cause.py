from __future__ import annotations

from clients.commands.cause import cause

ECHO = "\x1b[36m(ServeController pid=20254)\x1b[0m "
RAYLET = "\x1b[33m(raylet)\x1b[0m "
NESTED = """ray::ServeReplica:nli:Classifier.initialize() (pid=7, ip=127.0.0.1)
  File "/replica.py", line 1, in initialize
RuntimeError: Traceback (most recent call last):
  File "/classifier.py", line 1, in __init__
deployments.engines.refusal.StartRefused: /model cannot be loaded, SafetensorError
"""


def test_the_innermost_exception_is_the_cause_without_its_module() -> None:
    assert cause(NESTED) == "StartRefused: /model cannot be loaded, SafetensorError"


def test_the_lines_of_a_message_are_kept_up_to_six() -> None:
    assert cause("pydantic.ValidationError: 9 errors\n" + "labels\n" * 9).count("\n") == 5


def test_what_ray_echoes_of_an_actor_after_the_exception_is_no_part_of_it() -> None:
    log = f"RuntimeError: Failed to bind\n{ECHO}ERROR: not ready\n{ECHO}    self._future.result()\n{RAYLET}a task\n"

    assert cause(log) == "RuntimeError: Failed to bind"


def test_where_there_is_nothing_but_echoes_the_last_one_is_told_without_its_colours() -> None:
    assert cause(f"{ECHO}first\n{ECHO}last\n") == "(ServeController pid=20254) last"


def test_an_end_without_an_exception_is_told_by_its_last_line_and_one_without_words_as_such() -> None:
    assert cause("a line\nthe last\n\n") == "the last"
    assert cause("\n") == "Serve gives no reason"
