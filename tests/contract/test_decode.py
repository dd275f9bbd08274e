from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.contract.args import CapsArgs, DeadlineArgs
from deployments.contract.decode import MAX_ERRORS, deadline_s, decode, label_pointer, parse_json
from deployments.contract.errors import BodyTooLarge, FieldError, InvalidRequest, MalformedJson

CAPS = CapsArgs(max_body_bytes=4_000, max_texts=3, max_text_chars=1_000, max_labels=4, max_label_chars=10, max_pairs=8)
GOOD: dict[str, Any] = {"text": "My card was charged twice", "labels": ["billing", "delivery"]}


def _errors(payload: object) -> list[FieldError]:
    with pytest.raises(InvalidRequest) as caught:
        decode(payload, CAPS)
    return caught.value.errors


def test_a_string_and_a_list_of_one_are_the_same_texts() -> None:
    assert decode(GOOD, CAPS).texts == decode({**GOOD, "text": [GOOD["text"]]}, CAPS).texts


def test_a_whole_number_may_be_written_with_a_point_as_json_allows() -> None:
    assert decode({**GOOD, "top_k": 2.0}, CAPS).top_k == 2


def test_labels_as_an_object_bring_their_own_hypotheses() -> None:
    request = decode({"text": "x", "labels": {"urgent": "This cannot wait.", "calm": "There is time."}}, CAPS)

    assert request.label_names == ["urgent", "calm"]
    assert request.own_hypotheses == ["This cannot wait.", "There is time."]
    assert label_pointer(request, 1) == "/labels/calm"


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"text": None}, "/text", "must be a string or a list of strings"),
        ({"text": 7}, "/text", "must be a string or a list of strings"),
        ({"text": ""}, "/text", "is blank"),
        ({"text": " \n\t"}, "/text", "is blank"),
        ({"text": []}, "/text", "at least 1 item"),
        ({"text": ["a", None]}, "/text/1", "valid string"),
        ({"text": ["a", "  "]}, "/text/1", "is blank"),
        ({"text": ["a"] * 4}, "/text", "4 texts, at most 3"),
        ({"text": "a" * 1_001}, "/text", "1,001 characters, at most 1,000"),
        ({"text": ["a", "b" * 1_001]}, "/text/1", "1,001 characters, at most 1,000"),
        ({"text": "\ud800"}, "/text", "lone surrogate"),
        ({"labels": None}, "/labels", "a list of strings, or an object"),
        ({"labels": "billing,delivery"}, "/labels", "a list of strings, or an object"),
        ({"labels": []}, "/labels", "at least 1 item"),
        ({"labels": {}}, "/labels", "at least 1 item"),
        ({"labels": ["a", 3]}, "/labels/1", "valid string"),
        ({"labels": ["a", " "]}, "/labels/1", "is blank"),
        ({"labels": ["a", "b", "a"]}, "/labels/2", "repeats label 0, 'a'"),
        ({"labels": ["a", "b" * 11]}, "/labels/1", "11 characters, at most 10"),
        ({"labels": ["a", "\udfff"]}, "/labels/1", "lone surrogate"),
        ({"labels": [str(i) for i in range(5)]}, "/labels", "5 labels, at most 4"),
        ({"labels": {"a": None}}, "/labels/a", "valid string"),
        ({"labels": {"a": " "}}, "/labels/a", "is blank"),
        ({"labels": {" ": "a"}}, "/labels/ ", "is blank"),
        ({"labels": {"b" * 11: "a"}}, f"/labels/{'b' * 11}", "11 characters, at most 10"),
        ({"labels": {"a/b~": ""}}, "/labels/a~1b~0", "is blank"),
        ({"text": ["a"] * 3, "labels": ["a", "b", "c"]}, "", "3 texts x 3 labels are 9 pairs, at most 8"),
        ({"multi_label": "yes"}, "/multi_label", "valid boolean"),
        ({"multi_label": 1}, "/multi_label", "valid boolean"),
        ({"multi_label": None}, "/multi_label", "valid boolean"),
        ({"top_k": 0}, "/top_k", "greater than 0"),
        ({"top_k": 1.5}, "/top_k", "valid integer"),
        ({"top_k": True}, "/top_k", "valid integer"),
        ({"top_k": float("nan")}, "/top_k", "valid integer"),
        ({"template": "no place for it"}, "/template", "exactly one {}"),
        ({"template": "{} and {}"}, "/template", "exactly one {}"),
        ({"template": "{:>1000000}"}, "/template", "exactly one {}"),
        ({"template": "{0.__class__}"}, "/template", "exactly one {}"),
        ({"template": "{{}}"}, "/template", "exactly one {}"),
        ({"template": "{} }"}, "/template", "exactly one {}"),
        ({"template": "{}" + "x" * 1_000}, "/template", "at most 1000 characters"),
        ({"template": "{}", "labels": {"a": "b"}}, "/template", "leave out one of them"),
        ({"model": 3}, "/model", "valid string"),
        ({"lables": ["a"]}, "/lables", "did you mean 'labels'?"),
        ({"candidate": 1}, "/candidate", "allowed: text, labels, multi_label"),
        ({"\ud800": 1}, "", "lone surrogate"),
        ({3: 1}, "/3", "Keys should be strings"),
    ],
)
def test_refuses_and_names_the_field(change: dict[str, Any], pointer: str, says: str) -> None:
    errors = _errors({**GOOD, **change})

    assert [e.pointer for e in errors] == [pointer]
    assert says in errors[0].detail


@pytest.mark.parametrize("payload", [None, 7, "text", [], [GOOD]])
def test_refuses_what_is_no_object(payload: object) -> None:
    assert _errors(payload) == [FieldError("", "must be a JSON object with the fields text and labels")]


def test_ten_thousand_labels_break_both_caps() -> None:
    errors = _errors({**GOOD, "labels": [str(i) for i in range(10_000)]})

    assert [e.pointer for e in errors] == ["/labels", ""]
    assert errors[0].detail.startswith("10,000 labels, at most 4")


def test_names_every_missing_field() -> None:
    assert _errors({}) == [FieldError("/text", "is required"), FieldError("/labels", "is required")]


def test_ten_thousand_errors_are_told_in_a_few() -> None:
    errors = _errors({**GOOD, "labels": [""] * 10_000})

    assert len(errors) == MAX_ERRORS
    assert errors[-1].detail == "and 9,981 more errors"


def test_no_message_repeats_a_text() -> None:
    assert "secret" not in str(_errors({"text": ["my secret", 5], "labels": "secret"}))


def test_texts_and_labels_together_may_not_exceed_the_body_cap() -> None:
    big = {"text": ["é" * 1_000] * 3, "labels": ["a"]}

    with pytest.raises(BodyTooLarge, match="6,001 bytes of text and labels, at most 4,000"):
        decode(big, CAPS)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"text": "a",}', "line 1 column 14"),
        (b'{"top_k": NaN}', "NaN is not JSON"),
        (b'{"top_k": -Infinity}', "-Infinity is not JSON"),
        (b'{"text": "a", "text": "b"}', "the key 'text' stands twice"),
        (b'{"top_k": ' + b"9" * 5_000 + b"}", "a number of 5,000 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"text": "\xff"}', "byte 10 is not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
)
def test_refuses_what_is_not_json(body: bytes, says: str) -> None:
    with pytest.raises(MalformedJson, match=says.replace("(", r"\(")):
        parse_json(body)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={name: _JSON for name in ("text", "labels", "template", "top_k", "other")}))
def test_any_json_is_a_request_or_a_clear_refusal_that_is_json_again(payload: dict[str, Any]) -> None:
    try:
        request = decode(parse_json(json.dumps(payload).encode()), CAPS)
    except (InvalidRequest, MalformedJson) as error:
        json.dumps(str(error)).encode()
        return
    assert request.texts
    assert request.label_names


def test_the_deadline_defaults_and_is_capped() -> None:
    limits = DeadlineArgs(default_s=30, max_s=120)

    assert deadline_s(None, limits) == 30
    assert deadline_s("0.5", limits) == 0.5
    for wish in ("0", "-1", "nan", "inf", "120.1", "soon", "", 121.0, [1.0], True, 10**400):
        with pytest.raises(InvalidRequest, match="above 0, at most 120"):
            deadline_s(wish, limits)  # type: ignore[arg-type]
