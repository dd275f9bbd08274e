"""What travels: a classification request, and the answer to it.

A request is a pydantic model, since callers are not to be trusted; an answer is a plain dict of a typed
shape, since we make it ourselves and it is on the hot path. HTTP and handle callers see the same two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PositiveInt, Tag
from typing_extensions import TypedDict

from .model import ServedModel


def _unicode(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds a lone surrogate, which is no valid Unicode; send UTF-8 text") from None
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank; give it some text")
    return _unicode(value)


def _one_placeholder(template: str) -> str:
    _unicode(template)
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ValueError(
            'must hold exactly one {} (the place of the label) and no other brace, as in "It is about {}."'
        )
    return template


def _whole(value: object) -> object:
    """JSON has one kind of number: 5.0 is the integer 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _kind(value: object) -> str | None:
    kinds: dict[type, str] = {str: "string", list: "list", dict: "object"}
    return kinds.get(type(value))


_NOT_BLANK = r"[^\s\x1c-\x1f\x85]"  # what `str.strip` leaves; JSON Schema's \s lacks the last five

Words = Annotated[str, AfterValidator(_not_blank), Field(json_schema_extra={"pattern": _NOT_BLANK})]
Texts = Annotated[
    Annotated[Words, Tag("string")] | Annotated[list[Words], Field(min_length=1), Tag("list")],
    Discriminator(_kind, custom_error_type="text_type", custom_error_message="must be a string or a list of strings"),
]
Labels = Annotated[
    Annotated[list[Words], Field(min_length=1), Tag("list")]
    | Annotated[dict[Words, Words], Field(min_length=1), Tag("object")],
    Discriminator(
        _kind,
        custom_error_type="labels_type",
        custom_error_message="must be a list of strings, or an object from each label to its own hypothesis",
    ),
]
Template = Annotated[
    str,
    Field(max_length=1_000, json_schema_extra={"pattern": r"^[^{}]*\{\}[^{}]*$"}),  # 256 labels multiply it
    AfterValidator(_one_placeholder),
]


class ClassifyRequest(BaseModel):
    """Which of these labels fits each text?"""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)

    text: Texts
    """One text or several; the results keep their order."""

    labels: Labels
    """The candidates; as an object, each brings its own hypothesis in place of the template."""

    multi_label: bool = False
    """Score each label by itself, instead of against the others."""

    template: Template | None = None
    """Makes a hypothesis of a label; null: the model's own, see `/v1/models`."""

    top_k: Annotated[PositiveInt, BeforeValidator(_whole)] | None = None
    """Return only the best so many labels."""

    model: str | None = None
    """Refuse to be answered by any other model; null: whichever is served."""

    @property
    def texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text

    @property
    def label_names(self) -> list[str]:
        return list(self.labels)

    @property
    def own_hypotheses(self) -> list[str] | None:
        return list(self.labels.values()) if isinstance(self.labels, dict) else None


class ErrorItem(TypedDict):
    """One field that is wrong."""

    pointer: str
    detail: str


# The member that draft-ietf-httpapi-ratelimit-headers-10 names; it is no name of Python's.
_Violation = TypedDict("_Violation", {"violated-policies": NotRequired[list[str]]})


class Problem(_Violation):
    """RFC 9457 problem details; `code` is stable, the texts are for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: NotRequired[list[ErrorItem]]
    retry_after_s: NotRequired[float]


class Result(TypedDict):
    """One text's labels, best first, and their scores in [0, 1]."""

    labels: list[str]
    scores: list[float]
    truncated: bool


class Failure(TypedDict):
    """Stands where a text's result would stand when the model failed on that text alone."""

    error: Problem


class Usage(TypedDict):
    """What the request cost: texts, text-label pairs, and the tokens of all pairs."""

    texts: int
    pairs: int
    tokens: int


class ClassifyResponse(TypedDict):
    """The answer: results in the order of the texts, and the model that really gave them."""

    model: str
    engine: str
    fallback: bool
    results: list[Result | Failure]
    usage: Usage
    request_id: str


class ModelList(TypedDict):
    """Answer of `/v1/models`."""

    models: list[ServedModel]


class Health(TypedDict):
    """Answer of `/healthz`."""

    status: str


class Readiness(TypedDict):
    """Answer of `/readyz`: a round trip through the model's replica succeeded."""

    status: str
    model: str
    engine: str
    fallback: bool


# Between `HandleClient` and the ingress, which may be of different versions while a roll-out lasts: a reader takes
# the keys that it knows, and a new key is optional for one version.


class Ask(TypedDict):
    """One request of a joined call."""

    request: object
    """What the body of `POST /v1/classify` holds."""

    deadline_s: float
    """Seconds left when it was sent."""

    id: str
    """By which it can be called off."""


class QuotaState(TypedDict):
    """What a caller may still do under one policy."""

    name: str
    unit: Literal["requests", "pairs"]
    limit: int
    """Units in `window_s` seconds."""

    window_s: int
    burst: int
    """Units at once, after a pause."""

    remaining: int
    next_s: int
    """Seconds until there is one unit more, rounded up; 0 when it is full."""


class Telling(TypedDict, total=False):
    """What became of a request: `answer`, or `error` as `errors.to_wire` writes it."""

    answer: ClassifyResponse
    error: dict[str, Any]
    timings: dict[str, float]
    """Seconds by stage."""

    quotas: list[QuotaState]


class Told(Telling):
    """The same in a joined call."""

    index: int
    """Its place in the call."""


class Terms(TypedDict):
    """What the service grants a caller, so that a client need not find out by being refused."""

    max_concurrent: int
    """Requests at a time in one replica of the front door."""

    max_deadline_s: float
    quotas: list[QuotaState]
    """Full."""
