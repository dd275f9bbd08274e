"""From untrusted JSON values to a valid request, or to one error that names every wrong field.

HTTP bodies and handle arguments pass through here alike. Nothing of a caller's text gets into a message;
names of unknown fields and repeated labels do, shortened, since the caller must find them.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .args import CapsArgs, DeadlineArgs
from .errors import BodyTooLarge, FieldError, InvalidRequest, MalformedJson
from .wire import ClassifyRequest

MAX_ERRORS = 20  # enough to mend a request by; 10,000 blank labels need no 10,000 lines
_UNIONS = {"text", "labels"}  # fields whose error location has the kind of the value in second place
_DETAILS = {
    "missing": "is required",
    "string_unicode": "holds a lone surrogate, which is no valid Unicode; send UTF-8 text",
    "recursion_loop": "refers to itself",
}


def parse_json(body: bytes) -> object:
    """Decode a JSON body.

    Stricter than `json.loads`: only UTF-8, no NaN or Infinity, no repeated key (the last would win in silence).
    orjson is faster by 3 µs a request, and cannot be told to refuse a repeated key.

    Raises:
        MalformedJson: with the place of the first error.
    """
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_int=_number, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise MalformedJson(f"byte {error.start} is not UTF-8; send the JSON as UTF-8") from error
    except RecursionError as error:
        raise MalformedJson("nested too deeply; a request is an object of strings and lists of strings") from error
    except ValueError as error:
        raise MalformedJson(f"{error}; send one JSON object") from error


def decode(payload: object, caps: CapsArgs) -> ClassifyRequest:
    """Validate a decoded request.

    Raises:
        InvalidRequest: naming each wrong field by its pointer, `MAX_ERRORS` of them at most.
        BodyTooLarge: texts and hypotheses together exceed `caps.max_body_bytes`.
    """
    try:
        request = ClassifyRequest.model_validate(payload)
    except ValidationError as error:
        raise InvalidRequest(_shorten([_field_error(e) for e in error.errors(include_url=False)])) from None
    if errors := list(_violations(request, caps)):
        raise InvalidRequest(_shorten(errors))
    size = sum(len(s.encode()) for s in (*request.texts, *request.label_names, *(request.own_hypotheses or ())))
    if size > caps.max_body_bytes:
        raise BodyTooLarge(f"{size:,} bytes of text and labels, at most {caps.max_body_bytes:,}; send fewer at a time")
    return request


def deadline_s(wish: str | float | None, limits: DeadlineArgs) -> float:
    """How many seconds the request may take; `wish` is the caller's, a header's text or a number.

    Raises:
        InvalidRequest: not a number of seconds within (0, limits.max_s].
    """
    if wish is None:
        return limits.default_s
    try:
        seconds = math.nan if isinstance(wish, bool) else float(wish)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds <= limits.max_s:
        detail = "the deadline (X-Deadline-Seconds, deadline_s) must be a number of seconds above 0"
        detail += f", at most {limits.max_s:g}"
        raise InvalidRequest([FieldError("", detail)])
    return seconds


def label_pointer(request: ClassifyRequest, index: int) -> str:
    """The pointer to label `index`, whether the labels came as a list or as an object."""
    return _pointer(["labels", request.label_names[index] if request.own_hypotheses else index])


def _violations(request: ClassifyRequest, caps: CapsArgs) -> Iterator[FieldError]:
    texts, labels = request.texts, request.label_names
    if len(texts) > caps.max_texts:
        yield FieldError("/text", f"{len(texts):,} texts, at most {caps.max_texts:,}; send them in parts")
    if len(labels) > caps.max_labels:
        yield FieldError("/labels", f"{len(labels):,} labels, at most {caps.max_labels:,}; narrow them down first")
    if len(texts) * len(labels) > caps.max_pairs:
        pairs = f"{len(texts):,} texts x {len(labels):,} labels are {len(texts) * len(labels):,} pairs"
        yield FieldError("", f"{pairs}, at most {caps.max_pairs:,}; send fewer texts at a time")
    for i, text in enumerate(texts):
        if len(text) > caps.max_text_chars:
            pointer = "/text" if isinstance(request.text, str) else f"/text/{i}"
            yield FieldError(pointer, f"{len(text):,} characters, at most {caps.max_text_chars:,}; cut the text")
    seen: dict[str, int] = {}
    for i, label in enumerate(labels):
        if len(label) > caps.max_label_chars:
            detail = f"{len(label):,} characters, at most {caps.max_label_chars:,}; shorten the label"
            yield FieldError(label_pointer(request, i), detail)
        elif label in seen:
            yield FieldError(f"/labels/{i}", f"repeats label {seen[label]}, {_brief(label)}; labels must differ")
        else:
            seen[label] = i
    if request.template is not None and request.own_hypotheses is not None:
        yield FieldError("/template", "is of no use when the labels bring their own hypotheses; leave out one of them")


def _field_error(error: ErrorDetails) -> FieldError:
    path = list(error["loc"])
    if len(path) > 1 and path[0] in _UNIONS:
        del path[1]
    if path and path[-1] == "[key]":
        del path[-1]
    return FieldError(_pointer(path), _detail(error))


def _detail(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        fields = list(ClassifyRequest.model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1])[:64], fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(fields)}"
        return f"is no field of a request; {hint}"
    if kind in ("model_type", "model_attributes_type"):
        return "must be a JSON object with the fields text and labels"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    return _DETAILS.get(kind) or error["msg"].replace("Input should be", "must be")


def _pointer(path: Sequence[str | int]) -> str:
    """RFC 6901, each step shortened, and without what JSON cannot carry."""
    steps = (str(step)[:64].encode("utf-8", "replace").decode() for step in path)
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def _brief(label: str) -> str:
    return repr(label if len(label) <= 32 else label[:31] + "…")


def _shorten(errors: list[FieldError]) -> list[FieldError]:
    if len(errors) <= MAX_ERRORS:
        return errors
    return [*errors[: MAX_ERRORS - 1], FieldError("", f"and {len(errors) - MAX_ERRORS + 1:,} more errors")]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {_brief(name)} stands twice in one object")
        found[name] = value
    return found


def _number(digits: str) -> int:
    if len(digits) > 20:  # more than any field takes, and Python would spend quadratic time on it
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
