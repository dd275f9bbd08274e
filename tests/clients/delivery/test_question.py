"""What may be asked, and that only plain values of it travel."""

from __future__ import annotations

import pickle
from collections import OrderedDict, UserDict, UserList, UserString
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from clients.delivery.question import Question, question
from deployments.contract.errors import InvalidRequest


class Kind(StrEnum):
    YES = "yes"
    NO = "no"


class OldKind(str, Enum):  # noqa: UP042
    YES = "yes"
    NO = "no"


class Most(IntEnum):
    ONE = 1


class Loud(str):
    """Whose own word of itself is another."""

    def __str__(self) -> str:
        return super().upper()


LABELS = ["yes", "no"]


def test_measures_pairs_and_the_bytes_that_travel() -> None:
    assert question("text", LABELS) == Question({"text": "text", "labels": LABELS}, pairs=2, size=9)
    assert question(["a", "ü"], {"yes": "It is so.", "€": "x"})[1:] == (4, 1 + 2 + 3 + 3 + 9 + 1)


def test_only_the_options_that_were_given_travel() -> None:
    asked = question("a", LABELS, multi_label=False, template="A {}.", top_k=None, model=None)

    assert asked.request == {"text": "a", "labels": LABELS, "multi_label": False, "template": "A {}."}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (("a", "b"), ["a", "b"]),
        (["a"], ["a"]),
        (UserList(["a", "b"]), ["a", "b"]),
        (np.str_("a"), "a"),
        ([np.str_("a"), "b"], ["a", "b"]),
        (Kind.YES, "yes"),
        (OldKind.YES, "yes"),
        (Loud("a"), "a"),
        ([Loud("a")], ["a"]),
    ],
)
def test_a_text_may_come_in_many_shapes_and_travels_as_plain_values(text: Any, plain: object) -> None:
    asked = question(text, LABELS).request

    assert asked["text"] == plain
    assert _kinds(asked) <= {str, list, dict}


@pytest.mark.parametrize(
    ("labels", "plain"),
    [
        (("yes", "no"), LABELS),
        (list(Kind), LABELS),
        (list(OldKind), LABELS),
        ([np.str_("yes"), "no"], LABELS),
        (MappingProxyType({"yes": "It is so."}), {"yes": "It is so."}),
        (UserDict(yes="It is so."), {"yes": "It is so."}),
        (OrderedDict({"no": "It is not.", "yes": "It is so."}), {"no": "It is not.", "yes": "It is so."}),
        ({Kind.YES: np.str_("It is so.")}, {"yes": "It is so."}),
    ],
)
def test_so_do_labels_in_their_order(labels: Any, plain: dict[str, str] | list[str]) -> None:
    asked = question("a", labels).request

    assert asked["labels"] == plain
    assert list(asked["labels"]) == list(plain)
    assert _kinds(asked) <= {str, list, dict}


def test_numbers_of_a_kind_of_their_own_become_plain_ones() -> None:
    asked = question("a", LABELS, top_k=Most.ONE).request

    assert (asked["top_k"], _kinds(asked)) == (1, {str, list, dict, int})
    assert question("a", LABELS, top_k=2.0).request["top_k"] == 2  # type: ignore[arg-type]


def test_what_the_caller_changes_afterwards_does_not_travel() -> None:
    text, labels = ["a"], {"yes": "It is so."}
    asked = question(text, labels)
    text.append("b")
    labels["no"] = "It is not."

    assert asked.request == {"text": ["a"], "labels": {"yes": "It is so."}}


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        b"bytes",
        bytearray(b"bytes"),
        "",
        " \n",
        [],
        ["a", None],
        ["a", ""],
        ["a", b"b"],
        [["a"]],
        {"a": "b"},
        {"a"},
        iter(["a"]),
        (text for text in ("a", "b")),
        np.array(["a", "b"]),
        np.array("a"),
        UserString("a"),
        "\ud800",
        memoryview(b"ab"),
    ],
    ids=lambda text: type(text).__name__,
)
def test_what_is_no_text_is_refused_by_its_field(text: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        question(text, LABELS)

    assert {error.pointer[:5] for error in caught.value.errors} == {"/text"}


@pytest.mark.parametrize(
    "labels",
    [
        None,
        "yes",
        b"yes",
        [],
        {},
        {"yes", "no"},
        ["yes", ""],
        ["yes", None],
        ["yes", "yes"],
        {"yes": 1},
        {"yes": ""},
        {1: "yes"},
        iter(LABELS),
        dict.fromkeys(LABELS).keys(),
        np.array(LABELS),
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_what_is_no_set_of_labels_is_refused_by_its_field(labels: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        question("a", labels)

    assert {error.pointer[:7] for error in caught.value.errors} == {"/labels"}


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"multi_label": 1}, "/multi_label"),
        ({"template": "no place"}, "/template"),
        ({"top_k": 0}, "/top_k"),
        ({"top_k": True}, "/top_k"),
        ({"model": 5}, "/model"),
        ({"multilabel": True}, "/multilabel"),
    ],
)
def test_an_option_that_is_wrong_is_named(options: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        question("a", LABELS, **options)

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_all_that_is_wrong_is_told_at_once_and_survives_the_journey() -> None:
    with pytest.raises(InvalidRequest) as caught:
        question("", ["yes", ""], top_k=0)

    assert {error.pointer for error in caught.value.errors} == {"/text", "/labels/1", "/top_k"}
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_how_much_may_be_asked_is_the_services_to_say() -> None:
    asked = question(["x" * 1_000_000] * 300, [f"label {i}" for i in range(300)])

    assert asked.pairs == 90_000


def _kinds(value: object) -> set[type]:
    if isinstance(value, dict):
        return {type(value)}.union(*map(_kinds, value), *map(_kinds, value.values()))
    if isinstance(value, list):
        return {type(value)}.union(*map(_kinds, value))
    return {type(value)}
