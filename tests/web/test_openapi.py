"""The OpenAPI document's statements about keys and quotas."""

from __future__ import annotations

from deployments.contract.args import AppArgs
from deployments.web.openapi import document

OFF = AppArgs.model_validate({"auth": "off"})
REQUIRED = OFF.model_copy(update={"auth": "required"})


def test_where_a_key_is_required_it_says_how_to_bring_one() -> None:
    found = document(REQUIRED)
    classify = found["paths"]["/v1/classify"]["post"]

    (name, scheme) = next(iter(found["components"]["securitySchemes"].items()))
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert classify["security"] == [{name: []}]
    assert classify["responses"]["401"]["headers"].keys() == {"WWW-Authenticate"}


def test_where_auth_is_off_it_asks_for_no_key() -> None:
    found = document(OFF)
    classify = found["paths"]["/v1/classify"]["post"]

    assert "securitySchemes" not in found["components"]
    assert "security" not in classify
    assert "401" not in classify["responses"]


def test_it_says_where_the_quotas_stand_and_how_long_to_wait() -> None:
    found = document(OFF)
    responses = found["paths"]["/v1/classify"]["post"]["responses"]

    headers = {status: set(said["headers"]) for status, said in responses.items() if "headers" in said}
    assert headers == {
        "200": {"RateLimit-Policy", "RateLimit"},
        "429": {"RateLimit-Policy", "RateLimit", "Retry-After"},
        "503": {"Retry-After"},
    }
    assert headers["429"] <= found["components"]["headers"].keys()


def test_two_errors_of_one_status_are_both_described() -> None:
    responses = document(OFF)["paths"]["/v1/classify"]["post"]["responses"]

    assert responses["413"]["description"] == "Request too large; or: Request too large for the quota"
    assert responses["403"]["description"] == "Host not allowed"
