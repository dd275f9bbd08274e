"""The OpenAPI document, generated from the wire models and the errors: they are stated once."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from deployments.contract import errors, wire
from deployments.contract.args import AppArgs, CapsArgs

from .problems import MEDIA_TYPE

Json = dict[str, Any]  # a JSON Schema or a part of an OpenAPI document: as deep as they come

_ALWAYS: tuple[type[errors.ServiceError], ...] = (errors.HostNotAllowed, errors.ServiceError)
_CLASSIFY = (
    errors.MalformedJson,
    errors.ModelNotFound,
    errors.BodyTooLarge,
    errors.CostTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidRequest,
    errors.QuotaExceeded,
    errors.TooManyConcurrent,
    errors.Unavailable,
    errors.DeadlineExceeded,
)
_WITH_KEYS = (errors.RepeatedAuthorization, errors.Unauthorized)
_HEADERS: Json = {
    "RateLimit-Policy": {
        "description": "Your quotas, nearest to exhaustion first: `q` units in `w` seconds, `nli-burst` at once; "
        "units are requests unless `nli-unit` says otherwise. Source: draft-ietf-httpapi-ratelimit-headers-10.",
        "schema": {"type": "string"},
        "example": '"key-requests";q=20;w=1;nli-burst=100, "key-pairs";q=2000;w=1;nli-burst=8192;nli-unit="pairs"',
    },
    "RateLimit": {
        "description": "What is left of each quota: `r` units now, one more in `t` seconds.",
        "schema": {"type": "string"},
        "example": '"key-requests";r=42;t=1, "key-pairs";r=4100;t=1',
    },
    "Retry-After": {
        "description": "Whole seconds, rounded up; the body's `retry_after_s` is exact.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"description": "How to bring a key.", "schema": {"const": "Bearer"}},
}
_HEADERS_OF = {
    "200": ("RateLimit-Policy", "RateLimit"),
    "401": ("WWW-Authenticate",),
    "429": ("RateLimit-Policy", "RateLimit", "Retry-After"),
    "503": ("Retry-After",),
}
_EXAMPLE = {"text": "My card was charged twice", "labels": ["billing", "delivery"]}


def document(args: AppArgs) -> Json:
    """The service's HTTP interface, with the caps of this deployment."""
    schemas = _schemas()
    _cap(schemas["ClassifyRequest"], args.caps)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nli-serve",
            "version": "1",
            "description": "Zero-shot text classification: which of these labels fits this text?",
        },
        "paths": {
            "/v1/classify": {"post": _classify(args)},
            "/v1/models": {"get": _get("The model that answers.", "ModelList")},
            "/healthz": {"get": _get("The process is alive.", "Health")},
            "/readyz": {
                "get": _get(
                    "The model answers: made by a round trip through it.",
                    "Readiness",
                    errors.Unavailable,
                    errors.DeadlineExceeded,
                )
            },
            "/openapi.json": {"get": _get("This document.", None)},
        },
        "components": {"schemas": schemas, "headers": _HEADERS, **_security_schemes(args)},
    }


def _classify(args: AppArgs) -> Json:
    caps = args.caps
    responses = _responses("ClassifyResponse", (*_CLASSIFY, *(_WITH_KEYS if _needs_key(args) else ())))
    for status in responses.keys() & _HEADERS_OF.keys():
        responses[status]["headers"] = {name: _ref(name, "headers") for name in _HEADERS_OF[status]}
    body = {"application/json": {"schema": _ref("ClassifyRequest"), "example": _EXAMPLE}}
    deadline = {
        "name": "X-Deadline-Seconds",
        "in": "header",
        "description": "Seconds after which the answer is 504.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": args.deadline.max_s},
    }
    return {
        "summary": "Which of these labels fits each text?",
        "description": f"At most {caps.max_texts} texts of {caps.max_text_chars} characters, {caps.max_labels} labels "
        f"of {caps.max_label_chars} characters, {caps.max_pairs} pairs, {caps.max_body_bytes} bytes of body.",
        "operationId": "classify",
        "parameters": [deadline],
        "requestBody": {"required": True, "content": body},
        "responses": responses,
        **({"security": [{"key": []}]} if _needs_key(args) else {}),
    }


def _security_schemes(args: AppArgs) -> Json:
    scheme = {"type": "http", "scheme": "bearer", "description": "An API key: `nli_<id>_<secret>`."}
    return {"securitySchemes": {"key": scheme}} if _needs_key(args) else {}


def _needs_key(args: AppArgs) -> bool:
    return args.auth != "off"


def _get(summary: str, schema: str | None, *raised: type[errors.ServiceError]) -> Json:
    return {"summary": summary, "responses": _responses(schema, raised)}


def _responses(schema: str | None, raised: tuple[type[errors.ServiceError], ...]) -> Json:
    found: Json = {
        "200": {
            "description": "The answer.",
            "content": {"application/json": {"schema": _ref(schema) if schema else {"type": "object"}}},
        }
    }
    for error in (*raised, *_ALWAYS):
        content = {MEDIA_TYPE: {"schema": _ref("Problem")}}
        said = found.setdefault(str(error.status), {"description": error.title, "content": content})
        if error.title not in said["description"].split("; or: "):
            said["description"] += f"; or: {error.title}"
    return dict(sorted(found.items()))


def _schemas() -> Json:
    found: Json = {}
    for model in (
        wire.ClassifyRequest,
        wire.ClassifyResponse,
        wire.Problem,
        wire.ModelList,
        wire.Health,
        wire.Readiness,
    ):
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        schema = adapter.json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def _cap(request: Json, caps: CapsArgs) -> None:
    """State what `decode` refuses beyond the types, as far as JSON Schema can."""
    text, texts = request["properties"]["text"]["oneOf"]
    labels, claims = request["properties"]["labels"]["oneOf"]
    text["maxLength"] = texts["items"]["maxLength"] = caps.max_text_chars
    texts["maxItems"] = caps.max_texts
    labels |= {"maxItems": caps.max_labels, "uniqueItems": True}
    labels["items"]["maxLength"] = caps.max_label_chars
    ((words, claim),) = claims.pop("patternProperties").items()  # which would let any other name have any value
    claims |= {"maxProperties": caps.max_labels, "additionalProperties": claim}
    claims["propertyNames"] = {"pattern": words, "maxLength": caps.max_label_chars}
    both = {"labels": {"type": "object"}, "template": {"type": "string"}}
    request["not"] = {"properties": both, "required": ["labels", "template"]}


def _ref(name: str, kind: str = "schemas") -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}
