"""What a caller asks about a text, checked and measured before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

from deployments.contract.args import CapsArgs
from deployments.contract.decode import decode

Labels = Sequence[str] | Mapping[str, str]
"""The candidates, or from each candidate to its own hypothesis."""

# The service's own caps decide; here only what is no valid request with any caps is refused.
_ANY = CapsArgs.model_construct(None, **dict.fromkeys(CapsArgs.model_fields, 1 << 62))


class Question(NamedTuple):
    """A valid request, and what it costs."""

    request: dict[str, Any]
    """What the body of `POST /v1/classify` holds."""

    pairs: int
    size: int
    """Bytes that travel, roughly."""


class Options(TypedDict, total=False):
    """How to ask."""

    multi_label: bool
    """Score each label by itself, instead of against the others."""

    template: str | None
    """Makes a hypothesis of a label, with exactly one `{}`; None: the model's own."""

    top_k: int | None
    """Return only the best so many labels."""

    model: str | None
    """Refuse to be answered by any other model."""


class Asking(Options, total=False):
    """How to ask, and how long to wait."""

    deadline_s: float | None
    """Seconds until `DeadlineExceeded`, which travel to the service; None: the client's own."""


def question(text: str | Sequence[str], labels: Labels, **options: Unpack[Options]) -> Question:
    """Plain values of it, so that nothing of one caller can spoil a joined call.

    Raises:
        InvalidRequest: naming each wrong field.
    """
    request: dict[str, Any] = {"text": _plain(text), "labels": _plain(labels)}
    request |= {name: value for name, value in options.items() if value is not None}
    valid = decode(request, _ANY)
    texts, names = valid.texts, valid.label_names
    size = sum(len(s.encode()) for s in (*texts, *names, *(valid.own_hypotheses or ())))
    return Question({name: getattr(valid, name) for name in request}, len(texts) * len(names), size)


def _plain(value: Any) -> Any:
    """A list of a tuple, a dict of any mapping; whatever else is told from a string is for `decode` to refuse."""
    if isinstance(value, str):
        return str.__str__(value)  # of numpy's, and of an Enum that is a string, whose own says `Kind.BILLING`
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return list(value)
    return value
