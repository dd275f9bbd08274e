from __future__ import annotations

import json
import pickle

import pytest

from deployments.contract import errors
from deployments.contract.errors import (
    FieldError,
    HypothesisTooLong,
    InvalidRequest,
    QuotaExceeded,
    ServiceError,
    TooManyConcurrent,
    Unavailable,
    from_wire,
    to_wire,
)


def _all(root: type[ServiceError]) -> list[type[ServiceError]]:
    return [root, *(c for child in root.__subclasses__() for c in _all(child))]


def _example(cls: type[ServiceError]) -> ServiceError:
    examples = [
        InvalidRequest([FieldError("/labels/3", "is blank"), FieldError("", "too many")]),
        HypothesisTooLong(3, 600, 507),
        QuotaExceeded(["key-requests", "key-pairs"], 0.05),
        TooManyConcurrent(64),
    ]
    return next((example for example in examples if type(example) is cls), None) or cls("what was wrong")


@pytest.mark.parametrize("cls", _all(ServiceError))
def test_survives_pickling_with_class_arguments_and_message(cls: type[ServiceError]) -> None:
    error = _example(cls)

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), copy.args, str(copy)) == (cls, error.args, str(error))


@pytest.mark.parametrize("cls", _all(ServiceError))
def test_is_named_with_its_status_in_the_tree_that_heads_the_file(cls: type[ServiceError]) -> None:
    assert cls is ServiceError or f"{cls.__name__} " in (errors.__doc__ or "")
    assert cls is ServiceError or str(cls.status) in next(
        line for line in (errors.__doc__ or "").splitlines() if f"- {cls.__name__} " in line
    )


def test_an_invalid_request_says_every_field() -> None:
    assert str(_example(InvalidRequest)) == "/labels/3: is blank; too many"


@pytest.mark.parametrize("cls", [Unavailable, HypothesisTooLong, QuotaExceeded, ServiceError])
def test_travels_as_plain_values(cls: type[ServiceError]) -> None:
    error = _example(cls)

    copy = from_wire(json.loads(json.dumps(to_wire(error))))

    assert (type(copy), copy.args, str(copy)) == (cls, error.args, str(error))


@pytest.mark.parametrize("value", [{"class": "OfTomorrow", "args": []}, {"class": "HypothesisTooLong", "args": [1]}])
def test_an_error_of_another_version_keeps_its_message(value: dict[str, object]) -> None:
    error = from_wire({**value, "detail": "what it says"})

    assert (type(error), str(error)) == (ServiceError, "what it says")
