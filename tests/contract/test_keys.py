from __future__ import annotations

import hashlib
import hmac
import json
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.contract.errors import RepeatedAuthorization, Unauthorized
from deployments.contract.keys import KeyFile, KeyRecord, Keyring, bearer, dump, new_key, parse, renewed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SECRET, OTHER_SECRET = "0123456789abcdef" * 4, "fedcba9876543210" * 4
RECORD = KeyRecord(
    id="0123456789ab",
    hash=hashlib.sha256(SECRET.encode()).hexdigest(),
    tenant="acme",
    tier="gold",
    created=NOW,
    expires=NOW + timedelta(days=90),
)
OTHER = KeyRecord(
    id="ba9876543210", hash=hashlib.sha256(OTHER_SECRET.encode()).hexdigest(), tenant="umbrella", created=NOW
)
TOKEN, OTHER_TOKEN = f"nli_{RECORD.id}_{SECRET}", f"nli_{OTHER.id}_{OTHER_SECRET}"
RING = Keyring([RECORD, OTHER])
NO_SUCH = "no such API key; check it, or ask whoever runs the service for a new one"


def _refusal(token: str, ring: Keyring = RING, now: datetime = NOW) -> str:
    with pytest.raises(Unauthorized) as caught:
        ring.verify(token, now)
    return str(caught.value)


def _text(**changes: object) -> str:
    """A file with one key, changed."""
    return json.dumps({"version": 1, "keys": [{**json.loads(RECORD.model_dump_json()), **changes}]})


def test_a_token_opens_the_door_with_its_own_key() -> None:
    assert RING.verify(TOKEN, NOW) == RECORD
    assert RING.verify(OTHER_TOKEN, NOW) == OTHER


def test_a_token_is_the_id_and_32_random_bytes_of_which_the_sha256_is_kept() -> None:
    record, token = new_key("acme", "gold", NOW + SECOND, now=NOW)

    prefix, id, secret = token.split("_")
    assert (prefix, id, len(bytes.fromhex(secret))) == ("nli", record.id, 32)
    assert secret[:32] != secret[32:]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert record == KeyRecord(id=id, hash=digest, tenant="acme", tier="gold", created=NOW, expires=NOW + SECOND)
    assert secret not in dump(KeyFile(keys=(record,)))
    assert Keyring([record]).verify(token, NOW) == record


def test_no_two_keys_are_alike() -> None:
    made = [new_key("acme", now=NOW) for _ in range(100)]

    assert len({record.id for record, _ in made}) == len({token[-64:] for _, token in made}) == 100


def test_a_wrong_secret_and_an_unknown_id_are_told_the_very_same() -> None:
    wrong_secret = f"nli_{RECORD.id}_{OTHER_TOKEN[-64:]}"
    unknown_id = f"nli_{'0' * 12}_{TOKEN[-64:]}"

    assert _refusal(wrong_secret) == _refusal(unknown_id) == NO_SUCH


def test_an_unknown_id_costs_the_same_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        lengths.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr("deployments.contract.keys.hmac.compare_digest", spy)
    _refusal(f"nli_{'0' * 12}_{TOKEN[-64:]}")
    RING.verify(TOKEN, NOW)

    assert lengths == [(32, 32), (32, 32)]


def test_an_unknown_id_is_let_in_by_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.contract.keys.hmac.compare_digest", lambda *_: True)

    assert _refusal(f"nli_{'0' * 12}_{TOKEN[-64:]}") == NO_SUCH


def test_the_secret_is_compared_to_its_last_digit() -> None:
    last = "0" if TOKEN[-1] != "0" else "1"

    assert _refusal(TOKEN[:-1] + last) == NO_SUCH


def test_a_revoked_key_is_told_so_only_to_who_has_its_secret() -> None:
    ring = Keyring([RECORD.model_copy(update={"disabled": True})])

    assert "was revoked" in _refusal(TOKEN, ring)
    assert _refusal(f"nli_{RECORD.id}_{'0' * 64}", ring) == NO_SUCH


def test_a_key_expires_to_the_second_and_says_when_only_to_who_has_its_secret() -> None:
    expires = NOW + timedelta(days=90)

    assert RING.verify(TOKEN, expires - SECOND) == RECORD
    assert "expired on 2026-05-30 at 12:00 UTC" in _refusal(TOKEN, now=expires)
    assert _refusal(f"nli_{RECORD.id}_{'0' * 64}", now=expires) == NO_SUCH


def test_a_key_without_an_expiry_never_expires() -> None:
    assert RING.verify(OTHER_TOKEN, datetime(9999, 12, 31, tzinfo=UTC)) == OTHER


def test_a_renewed_key_takes_the_new_token_and_not_the_old() -> None:
    record, token = renewed(RECORD, now=NOW + SECOND)
    ring = Keyring([record])

    assert ring.verify(token, NOW) == record
    assert _refusal(TOKEN, ring) == NO_SUCH
    assert record == RECORD.model_copy(update={"hash": record.hash, "created": NOW + SECOND})


MALFORMED = {
    "empty": "",
    "no id": "nli_",
    "upper case": TOKEN.upper(),
    "a line break": TOKEN + "\n",
    "a space": " " + TOKEN,
    "too short": TOKEN[:-1],
    "too long": TOKEN + "0",
    "another prefix": TOKEN.replace("nli", "sk"),
    "the hash": RECORD.hash,
    "not ASCII": TOKEN[:-1] + "é",
    "a digit that is not ASCII": TOKEN[:-1] + "\uff10",
    "surrogates": "\ud800" * 81,
    "1 MB": "nli_" + "0" * 1_000_000,
    "a null": "\0",
}


@pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_token_is_told_the_form(token: str) -> None:
    said = _refusal(token)

    assert said.startswith("malformed API key, expected nli_, 12 hex digits, _, 64 hex digits; send it as")
    assert len(said) < 200


def _splice(token: str, at: int, junk: str) -> str:
    return token[:at] + junk + token[at + len(junk) :]


JUNK = st.text(st.characters(exclude_categories=()))  # surrogates too
NEAR = st.builds(_splice, st.just(TOKEN), st.integers(0, 80), JUNK).filter(lambda token: token != TOKEN)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(JUNK | NEAR | HEX.map(f"nli_{RECORD.id}_{{}}".format) | HEX.map(lambda digits: f"nli_{digits[:12]}_{digits}"))
def test_junk_is_only_ever_unauthorized_and_never_repeated(token: str) -> None:
    said = _refusal(token)

    assert said in (NO_SUCH, _refusal(""))


@pytest.mark.parametrize("now", [NOW, NOW + timedelta(days=365)])
def test_no_message_holds_the_token(now: datetime) -> None:
    for token in (f"nli_{RECORD.id}_{'0' * 64}", TOKEN[:-1], *([TOKEN] if now > NOW else [])):
        said = _refusal(token, now=now)

        assert token not in said
        assert token[-63:] not in said
        assert RECORD.id not in said


def test_the_refusal_survives_pickling() -> None:
    with pytest.raises(Unauthorized) as caught:
        RING.verify("", NOW)

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("value", ["Bearer x", "bearer x", "BEARER   x ", "bEaReR x"])
def test_the_scheme_is_bearer_in_any_case(value: str) -> None:
    assert bearer([value]) == "x"


@pytest.mark.parametrize("value", ["Basic x", "", "nli_0_0", "Bearerx", "Bearer\tx", "Token Bearer x"])
def test_another_scheme_is_unauthorized_and_told_how(value: str) -> None:
    with pytest.raises(Unauthorized, match=r"not of the scheme Bearer; send it as `Authorization: Bearer nli_\.\.\.`"):
        bearer([value])


def test_no_header_is_unauthorized_and_told_how() -> None:
    with pytest.raises(Unauthorized, match=r"no API key; send it as `Authorization: Bearer nli_\.\.\.`"):
        bearer([])


@pytest.mark.parametrize("values", [["Bearer x", "Bearer x"], ["Bearer x", "Basic y"], ["", "", ""]])
def test_two_headers_are_refused_even_when_equal(values: list[str]) -> None:
    with pytest.raises(RepeatedAuthorization):
        bearer(values)


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer a, Bearer b"])
def test_a_header_without_one_token_opens_no_door(value: str) -> None:
    assert "malformed" in _refusal(bearer([value]))


def test_a_file_is_read_as_it_was_written() -> None:
    keys = KeyFile(keys=(RECORD, OTHER.model_copy(update={"disabled": True})))

    assert parse(dump(keys)) == parse(dump(keys).encode()) == keys


def test_the_least_that_a_key_needs() -> None:
    record = {"id": "0" * 12, "hash": "0" * 64, "tenant": "t", "created": "2026-03-01T12:00:00Z"}

    (key,) = parse(json.dumps({"version": 1, "keys": [record]})).keys

    assert (key.tier, key.expires, key.disabled, key.created) == (None, None, False, NOW)


BROKEN: list[tuple[str | bytes, str]] = [
    ("", "Invalid JSON: EOF while parsing"),
    ("{", "Invalid JSON: EOF while parsing"),
    ("[]", "should be an object"),
    (b"\xff", "Invalid JSON"),
    ("[" * 100_000, "Invalid JSON"),
    ('{"version": 2, "keys": []}', "version: Input should be 1"),
    ('{"version": 1, "kees": []}', "kees: Extra inputs are not permitted"),
    (json.dumps({TOKEN: 1}), "…: Extra inputs are not permitted"),
    (_text(id="0" * 11), r"keys[0].id: String should match pattern"),
    (_text(id="A" * 12), "keys[0].id"),
    (_text(hash="F" * 64), "keys[0].hash"),
    (_text(hash="0" * 63), "keys[0].hash"),
    (_text(hash="0" * 64 + "\n"), "keys[0].hash"),
    (_text(tenant=""), "keys[0].tenant"),
    (_text(tenant="a" * 65), "keys[0].tenant"),
    (_text(tenant="a b"), "keys[0].tenant"),
    (_text(tenant="é"), "keys[0].tenant"),
    (_text(tier="a\n"), "keys[0].tier"),
    (_text(secret="x"), "keys[0].secret: Extra inputs are not permitted"),
    (_text(disabled="false"), "keys[0].disabled: Input should be a valid boolean"),
    (_text(created="2026-03-01T12:00:00"), "keys[0].created: Input should have timezone info"),
    (_text(created="2026-03-01T12:00:00+02:00"), "keys[0].created: must be in UTC"),
    (_text(expires="0001-01-01T00:00:00+23:00"), "keys[0].expires: must be in UTC"),
    (_text(expires=1772366400), "keys[0].expires: Input should be a valid datetime"),
    (dump(KeyFile(keys=(RECORD,))).replace("[", "[" + RECORD.model_dump_json() + ","), "stands 2 times; keep one"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_a_broken_file_is_refused_with_the_place_and_without_the_value(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        parse(text)

    assert RECORD.hash not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: new_key("a b", now=NOW),
        lambda: new_key("a", "", now=NOW),
        lambda: new_key("a", now=NOW.replace(tzinfo=None)),
        lambda: new_key("a", expires=NOW.astimezone(timezone(timedelta(hours=1))), now=NOW),
        lambda: KeyFile(keys=(RECORD, RECORD)),
        lambda: setattr(RECORD, "disabled", True),
    ],
)
def test_nothing_unsound_is_made(make: Callable[[], Any]) -> None:
    with pytest.raises(ValidationError):
        make()


def test_a_record_says_nothing_of_what_it_refuses() -> None:
    with pytest.raises(ValidationError) as caught:
        KeyRecord(id="0" * 12, hash=TOKEN, tenant="t", created=NOW)

    assert TOKEN[:8] not in str(caught.value)  # pydantic would shorten it
