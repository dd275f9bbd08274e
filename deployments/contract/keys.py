"""API keys: what one looks like, what is kept of it, and whom it lets in.

A token is `nli_<id>_<secret>`, the secret 32 random bytes in hexadecimal. Kept is only the SHA-256 of the secret's
64 digits (`printf %s SECRET | sha256sum`): nobody guesses 256 bits, so a slow hash would add nothing but load.
Nothing here reads a file or a clock, and no message holds a token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import RepeatedAuthorization, Unauthorized

ID = "[0-9a-f]{12}"
NAME = "[A-Za-z0-9._-]{1,64}"  # of a tenant or a tier
HOW = "send it as `Authorization: Bearer nli_...`, or with a handle as api_key"

_TOKEN = re.compile(f"nli_({ID})_([0-9a-f]{{64}})")
_NOBODY = bytes(32)  # compared with where no key has the id, so that the time does not tell which ids exist
_WRONG = "no such API key; check it, or ask whoever runs the service for a new one"
_STEP_CHARS = 32  # of one step of a path in a message: more than any field's name, less than a secret


def _in_utc(moment: datetime) -> datetime:
    if moment.utcoffset() != timedelta(0):
        raise ValueError("must be in UTC, as in 2030-01-31T12:00:00Z")
    return moment


Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class KeyRecord(BaseModel):
    """What is kept of a key: enough to recognise it, not to use it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=f"^{ID}$")]
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    tenant: Name
    tier: Name | None = None
    created: Moment
    """When the present secret was made."""

    expires: Moment | None = None
    """From then on it is refused; null: never."""

    disabled: bool = False

    def refusal(self, now: datetime) -> str | None:
        """Why the key opens no door at this time; None: it does."""
        if self.disabled:
            return "this API key was revoked"
        if self.expires is not None and self.expires <= now:
            return f"this API key expired on {self.expires:%Y-%m-%d at %H:%M} UTC"
        return None


class KeyFile(BaseModel):
    """The content of the key file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()

    @field_validator("keys")
    @classmethod
    def _ids_differ(cls, keys: tuple[KeyRecord, ...]) -> tuple[KeyRecord, ...]:
        for id, times in Counter(key.id for key in keys).most_common(1):
            if times > 1:
                raise ValueError(f"the id {id} stands {times} times; keep one")
        return keys


def parse(text: str | bytes) -> KeyFile:
    """Read the JSON of a key file.

    Raises:
        ValueError: with the place of the first mistake, and nothing of a value.
    """
    try:
        return KeyFile.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(": ".join([*_place(first["loc"]), first["msg"].removeprefix("Value error, ")])) from None


def dump(keys: KeyFile) -> str:
    return keys.model_dump_json(indent=2) + "\n"


def new_key(
    tenant: str, tier: str | None = None, expires: datetime | None = None, *, now: datetime
) -> tuple[KeyRecord, str]:
    """A key that was not there before: what is kept of it, and the token, which nobody can tell from that."""
    record = KeyRecord(id=secrets.token_hex(6), hash="0" * 64, tenant=tenant, tier=tier, created=now, expires=expires)
    return renewed(record, now=now)


def renewed(record: KeyRecord, *, now: datetime) -> tuple[KeyRecord, str]:
    """The same key with another secret; the old token opens no door any more."""
    secret = secrets.token_hex(32)
    changed = {"hash": _digest(secret).hex(), "created": now}
    return record.model_copy(update=changed), f"nli_{record.id}_{secret}"


class Keyring:
    """The keys of one file, ready to be asked."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self._keys = {record.id: (record, bytes.fromhex(record.hash)) for record in records}

    def __len__(self) -> int:
        return len(self._keys)

    def verify(self, token: str, now: datetime) -> KeyRecord:
        """The key that the token opens the door with.

        Raises:
            Unauthorized: there is none; that it was revoked or has expired is told only to who has the secret.
        """
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            raise Unauthorized(f"malformed API key, expected nli_, 12 hex digits, _, 64 hex digits; {HOW}")
        record, digest = self._keys.get(parts[1], (None, _NOBODY))
        same = hmac.compare_digest(_digest(parts[2]), digest)
        if record is None or not same:
            raise Unauthorized(_WRONG)
        if refusal := record.refusal(now):
            raise Unauthorized(f"{refusal}; ask whoever runs the service for a new one")
        return record


def bearer(values: Sequence[str]) -> str:
    """The token in the values of a request's Authorization headers, not yet verified.

    Raises:
        Unauthorized: no such header, or another scheme (the scheme's case does not matter, RFC 9110 section 11.1).
        RepeatedAuthorization: more than one.
    """
    if not values:
        raise Unauthorized(f"no API key; {HOW}")
    if len(values) > 1:
        raise RepeatedAuthorization
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized(f"the Authorization header is not of the scheme Bearer; {HOW}")
    return token.strip(" ")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _place(location: tuple[int | str, ...]) -> list[str]:
    """`keys[3].hash`; what is too long for a name might be a secret in the wrong place."""
    steps = (
        f"[{step}]" if isinstance(step, int) else f".{step if len(step) <= _STEP_CHARS else '…'}" for step in location
    )
    return ["".join(steps).removeprefix(".")] if location else []
