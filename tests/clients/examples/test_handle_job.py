"""The pure parts of the job, and the job around a client whose service is a fake."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from click import UsageError
from click.testing import CliRunner, Result

from clients.delivery.client import Client
from clients.errors import NotRunning
from clients.examples.handle_job import HEAD, Results, classify, json_text, main, plain_text
from deployments.contract.errors import DeadlineExceeded, EngineFailed, ServiceError, Unauthorized
from tests.clients.delivery.fake import LABELS, FakeService, client_of

LINE = b'{"row": 0, "label": "yes", "score": 0.75, "scores": {"yes": 0.75, "no": 0.25}, "truncated": false}\n'
ERROR = b'{"row": 2, "error": "the line cannot be read: it is blank"}\n'


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output.jsonl"


@pytest.fixture
def input(tmp_path: Path) -> Path:
    path = tmp_path / "input.txt"
    path.write_text("one\ntwo\n")
    return path


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """What `main` finds on its cluster."""
    found = FakeService()
    monkeypatch.setattr("clients.examples.handle_job.HandleClient", lambda app, api_key: client_of(found))
    return found


class Full:
    """A file on a full disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)

    def write(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def _run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def _classify(
    service: FakeService, lines: Iterable[bytes], output: Path, text_of: Callable[[bytes], str] = plain_text
) -> str:
    """The summary."""
    with output.open("a+b") as file:
        results = Results(file, LABELS)
        with client_of(service) as client:
            classify(client, lines, text_of, results, LABELS)
        return results.summary()


def _rows(output: Path) -> dict[int, dict[str, Any]]:
    """By row, where each stands once."""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    found = {row.pop("row"): row for row in rows}
    assert len(found) == len(rows)
    return found


def _asked(service: FakeService) -> list[str]:
    """After the first, which is about no row."""
    requests: list[Any] = [ask["request"] for ask in service.asks]
    return sorted(request["text"] for request in requests[1:])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "a", "id": 7}\n', "a"),
        ('\ufeff{"text": "ä"}\r\n'.encode(), "ä"),
        (b'{"text": " "}', " "),  # for the service to refuse
    ],
)
def test_reads_the_text_of_a_json_line(line: bytes, text: str) -> None:
    assert json_text(line) == text


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b" \r\n", "it is blank"),
        (b'{"text": "\xff"}\n', "'utf-8' codec can't decode byte 0xff in position 10"),
        (b'{"text": "a\n', "Unterminated string"),
        (b'{"text": "a"} {"text": "b"}\n', "Extra data"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b'{"text": ' + b"1" * 5_000 + b"}", "Exceeds the limit"),
        (b'{"txt": "a"}\n', 'it is no object with a string "text"'),
        (b'{"text": ["a", "b"]}\n', 'it is no object with a string "text"'),
        (b'["a"]\n', 'it is no object with a string "text"'),
    ],
    ids=lambda value: str(value[:30]),
)
def test_a_json_line_without_a_text_costs_only_its_row(output: Path, line: bytes, error: str) -> None:
    told = _classify(FakeService(), [b'{"text": "one"}', line], output, json_text)

    assert told == "2 rows: 1 classified, 1 with an error"
    assert _rows(output)[1]["error"].startswith(f"the line cannot be read: {error}")


def test_every_line_gets_a_line_bad_rows_beside_good_ones(output: Path) -> None:
    told = _classify(FakeService(), [b"one\n", b"\n", b"t\xffo\n", b"three"], output)

    assert told == "4 rows: 2 classified, 2 with an error"
    assert _rows(output) == {
        0: {"label": "one", "score": 1.0, "scores": {"one": 1.0, "yes": 0.0, "no": 0.0}, "truncated": False},
        1: {"error": "the line cannot be read: it is blank"},
        2: {"error": "the line cannot be read: 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"},
        3: {"label": "three", "score": 1.0, "scores": {"three": 1.0, "yes": 0.0, "no": 0.0}, "truncated": False},
    }


def test_what_the_service_says_of_a_row_is_its_error(output: Path) -> None:
    service = FakeService()
    service.behave = lambda ask: EngineFailed("the model failed") if "bad" in str(ask["request"]) else 0.0

    told = _classify(service, [b"one\n", b"bad\n"], output)

    assert told == "2 rows: 1 classified, 1 with an error"
    assert _rows(output)[1] == {"error": "the model failed"}


def test_rows_that_the_service_could_not_answer_are_left_to_another_run(output: Path) -> None:
    service = FakeService()
    service.behave = lambda ask: DeadlineExceeded("too late") if "two" in str(ask["request"]) else 0.0

    told = _classify(service, [b"one\n", b"two\n", b"three\n"], output)

    assert told == "3 rows: 2 classified, 0 with an error, 1 not answered (too late); run again to ask for them"
    assert sorted(_rows(output)) == [0, 2]


def test_an_answer_is_in_the_file_before_the_next_line_is_read(output: Path) -> None:
    def lines() -> Iterator[bytes]:
        yield b"one\n"
        deadline = time.monotonic() + 10
        while not output.read_bytes().endswith(b"\n"):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        yield b"two\n"

    assert _classify(FakeService(), lines(), output) == "2 rows: 2 classified, 0 with an error"


def test_goes_on_where_an_earlier_run_was_killed(output: Path) -> None:
    output.write_bytes(LINE + ERROR + b'{"row": 3, "label": "y')
    service = FakeService()

    told = _classify(service, [b"zero\n", b"one\n", b"\n", b"three\n", b"four\n"], output)

    assert told == "5 rows: 4 classified, 1 with an error"
    assert _asked(service) == ["four", "one", "three"]
    assert output.read_bytes().startswith(LINE + ERROR + HEAD)
    assert sorted(_rows(output)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [*range(len(HEAD) + 2), *range(len(LINE) - 2, len(LINE) + 3), -2, -1, None])
def test_a_line_that_was_cut_off_anywhere_is_dropped(output: Path, cut: int | None) -> None:
    output.write_bytes((LINE + ERROR)[:cut])

    with output.open("a+b") as file:
        results = Results(file, LABELS)

    whole = (LINE + ERROR)[:cut].count(b"\n")
    assert [row for row in range(4) if row in results] == [0, 2][:whole]
    assert output.read_bytes() == b"".join([LINE, ERROR][:whole])


@pytest.mark.parametrize(
    "content", [b"\n", b"notes", b"notes\n", b'{"row": 0, "text": "a"}\n', b'{"text": "a"}', b"7\n", LINE + b"notes\n"]
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(output: Path, content: bytes) -> None:
    output.write_bytes(content)

    with output.open("a+b") as file, pytest.raises(UsageError, match="is not of this program"):
        Results(file, LABELS)

    assert output.read_bytes() == content


def test_results_for_other_labels_are_refused(output: Path) -> None:
    output.write_bytes(ERROR + LINE)

    with output.open("a+b") as file, pytest.raises(UsageError, match="line 2 of OUTPUT is about other labels"):
        Results(file, [*LABELS, "maybe"])


def test_two_runs_at_a_time_are_refused(output: Path) -> None:
    with output.open("a+b") as one, output.open("a+b") as another:
        Results(one, LABELS)
        with pytest.raises(UsageError, match="another run writes to OUTPUT"):
            Results(another, LABELS)


def test_a_full_disk_ends_the_run(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    read = []

    def lines() -> Iterator[bytes]:
        for i in range(10_000):
            read.append(i)
            yield b"text\n"

    with output.open("a+b") as file:
        results = Results(Full(file), LABELS)  # type: ignore[arg-type]
        with client_of(FakeService(), max_in_flight=4) as client:
            classify(client, lines(), plain_text, results, LABELS)

    assert client.callback_errors > 0
    assert len(read) < 1_000
    assert "No space left on device" in caplog.text


def test_the_program_asks_as_it_is_told_and_says_what_it_did(input: Path, output: Path, service: FakeService) -> None:
    done = _run(input, output, "--labels", "yes, no", "--multi-label", "--template", "So {}.", "--deadline", 9)

    assert (done.exit_code, done.stdout, done.stderr) == (0, "2 rows: 2 classified, 0 with an error\n", "")
    requests = [ask["request"] for ask in service.asks[1:]]
    assert requests == [
        {"text": text, "labels": LABELS, "multi_label": True, "template": "So {}."} for text in ("one", "two")
    ]
    assert all(8 < ask["deadline_s"] <= 9 for ask in service.asks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("INPUT OUTPUT", "Missing option '--labels'"),
        ("nowhere.txt OUTPUT --labels yes,no", "'nowhere.txt' does not exist"),
        ("INPUT INPUT --labels yes,no", "INPUT and OUTPUT are the same file"),
        ("INPUT nowhere/output --labels yes,no", "there is no folder nowhere"),
        ("table.csv OUTPUT --labels yes,no", "table.csv is none of .jsonl, .txt"),
        ("INPUT OUTPUT --labels yes,no,yes", "/labels/2: repeats label 0, 'yes'; labels must differ"),
        ("INPUT OUTPUT --labels yes,,no", "/labels/1: is blank"),
        ("INPUT OUTPUT --labels yes,no --template So.", "/template: must hold exactly one {}"),
        ("INPUT OUTPUT --labels yes,no --deadline 0", "must be a number of seconds above 0"),
        ("INPUT OUTPUT --labels yes,no --deadline soon", "'soon' is not a valid float"),
    ],
)
def test_wrong_arguments_are_one_message_and_exit_code_2(
    input: Path, output: Path, service: FakeService, arguments: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(input.parent)
    Path("table.csv").touch()

    done = _run(*(str({"INPUT": input, "OUTPUT": output}.get(word, word)) for word in arguments.split()))

    assert (done.exit_code, done.stdout, service.asks) == (2, "", [])
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists() or not output.read_bytes()


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (Unauthorized("no such API key"), 2, "NLI_API_KEY: no such API key"),
        (DeadlineExceeded("too late"), 1, "too late"),
    ],
)
def test_what_no_row_can_pass_is_said_once(
    input: Path, output: Path, service: FakeService, error: ServiceError, exit_code: int, message: str
) -> None:
    service.behave = lambda _: error

    done = _run(input, output, "--labels", "yes,no")

    assert (done.exit_code, done.stderr.splitlines()[-1]) == (exit_code, f"Error: {message}")
    assert len(service.asks) == 1


def test_without_a_service_the_exit_code_is_1(input: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(app: str, api_key: str | None) -> Client:
        raise NotRunning(f"no application {app!r}, for {api_key}")

    monkeypatch.setattr("clients.examples.handle_job.HandleClient", refuse)
    monkeypatch.setenv("NLI_API_KEY", "nli_1")

    done = _run(input, output, "--labels", "yes,no", "--app", "other")

    assert (done.exit_code, done.stderr) == (1, "Error: no application 'other', for nli_1\n")


def test_rows_without_an_answer_make_the_exit_code_1(input: Path, output: Path, service: FakeService) -> None:
    service.behave = lambda ask: DeadlineExceeded("too late") if "two" in str(ask["request"]) else 0.0

    done = _run(input, output, "--labels", "yes,no")

    assert (done.exit_code, done.stdout.partition(", ")[0]) == (1, "2 rows: 1 classified")


def test_an_output_that_takes_no_more_makes_the_exit_code_1(
    input: Path, output: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Results, "arrived", Full.write)

    done = _run(input, output, "--labels", "yes,no")

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"Error: {output} cannot be written; run again to go on"
