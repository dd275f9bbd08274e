"""Limits: what holds unless the config says otherwise, and what it must not say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.contract.args import CapsArgs
from deployments.contract.limits import CallerArgs, IngressConfig, RateArgs, RatesArgs

CAPS = CapsArgs(max_pairs=100)
RATE = {"limit": 5, "burst": 10}


def _pairs(burst: int) -> dict[str, Any]:
    return {"pairs": {"limit": 5, "burst": burst}}


def test_a_caller_has_20_requests_and_2000_pairs_a_second_and_64_at_a_time() -> None:
    assert IngressConfig().caller == CallerArgs(
        requests=RateArgs(limit=20, window_s=1, burst=100),
        pairs=RateArgs(limit=2_000, window_s=1, burst=8_192),
        max_concurrent=64,
    )


def test_all_callers_together_are_not_limited_and_there_are_no_tiers() -> None:
    config = IngressConfig()

    assert (config.service, config.tiers) == (RatesArgs(requests=None, pairs=None), {})


def test_the_defaults_let_the_largest_request_in() -> None:
    assert IngressConfig().too_small(CapsArgs()) is None


def test_what_a_tier_leaves_out_is_as_at_the_caller() -> None:
    config = IngressConfig.model_validate(
        {
            "caller": {"requests": RATE, "pairs": None, "max_concurrent": 3},
            "tiers": {"same": {}, "free": {"requests": None}, "wide": {"max_concurrent": 64, "pairs": RATE}},
        }
    )

    rate = RateArgs(limit=5, burst=10)
    assert config.tiers == {
        "same": config.caller,
        "free": CallerArgs(requests=None, pairs=None, max_concurrent=3),
        "wide": CallerArgs(requests=rate, pairs=rate, max_concurrent=64),  # the default's number, but it was said
    }


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"caler": {}}, "caler"),
        ({"caller": {"request": RATE}}, "caller.request"),
        ({"caller": None}, "caller"),
        ({"caller": {"requests": {**RATE, "limit": 0}}}, "caller.requests.limit"),
        ({"caller": {"requests": {**RATE, "burst": -1}}}, "caller.requests.burst"),
        ({"caller": {"requests": {**RATE, "burst": 10**12 + 1}}}, "caller.requests.burst"),
        ({"caller": {"requests": {**RATE, "window_s": 0.5}}}, "caller.requests.window_s"),
        ({"caller": {"requests": {"limit": 5}}}, "caller.requests.burst"),
        ({"caller": {"pairs": [5]}}, "caller.pairs"),
        ({"caller": {"max_concurrent": 0}}, "caller.max_concurrent"),
        ({"service": {"max_concurrent": 5}}, "service.max_concurrent"),
        ({"service": {"pairs": {**RATE, "limit": float("inf")}}}, "service.pairs.limit"),
        ({"tiers": {"gold": {"pairs": {**RATE, "limt": 5}}}}, "tiers.gold.pairs.limt"),
        ({"tiers": {"gold": None}}, "tiers.gold"),
        ({"tiers": {"very gold": {}}}, "tiers.very gold.[key]"),
        ({"tiers": {"": {}}}, "tiers..[key]"),
        ({"tiers": {7: {}}}, "tiers.7.[key]"),
        ({"tiers": {str(n): {} for n in range(101)}}, "tiers"),
    ],
)
def test_refuses_and_names_the_field(config: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError) as refused:
        IngressConfig.model_validate(config)

    assert [".".join(map(str, error["loc"])) for error in refused.value.errors()] == [names]


@pytest.mark.parametrize("level", ["caller", "service"])
def test_a_burst_that_cannot_hold_the_largest_request_is_too_small(level: str) -> None:
    found = IngressConfig.model_validate({level: _pairs(99)}).too_small(CAPS)

    assert found is not None
    field, what = found
    assert field == f"{level}.pairs.burst"
    assert what.startswith("99, but args.caps.max_pairs lets a request of 100 pairs in")


@pytest.mark.parametrize(
    "config",
    [
        {"caller": _pairs(100), "service": _pairs(100)},
        {"caller": {"pairs": None}, "service": {"pairs": None}},
        {"caller": {"requests": {"limit": 1, "burst": 1}}},
        {"tiers": {"small": _pairs(1)}},
    ],
    ids=["just enough", "not limited", "requests are no pairs", "a tier, on purpose"],
)
def test_nothing_is_too_small(config: dict[str, Any]) -> None:
    assert IngressConfig.model_validate(config).too_small(CAPS) is None


def test_validation_changes_neither_what_it_is_given_nor_a_config_that_was_made() -> None:
    tier = CallerArgs(max_concurrent=3)
    given = {"caller": CallerArgs(requests=None), "tiers": {"small": tier}}
    config = IngressConfig.model_validate(given)
    before = config.model_copy(deep=True)

    again = IngressConfig.model_validate(config)

    assert given == {"caller": CallerArgs(requests=None), "tiers": {"small": CallerArgs(max_concurrent=3)}}
    assert given["tiers"] == {"small": tier}
    assert (config, again) == (before, before)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        IngressConfig().caller.max_concurrent = 1  # type: ignore[misc]


def test_a_change_of_one_config_is_not_seen_in_another() -> None:
    IngressConfig.model_validate({"tiers": {"gold": {}}})

    assert IngressConfig().tiers == {}
