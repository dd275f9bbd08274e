from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.contract.args import DEFAULT_MODEL, DEFAULT_REVISION, AppArgs, ClassifierConfig, ModelArgs

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_default_model_is_pinned() -> None:
    assert (ModelArgs().name, ModelArgs().revision) == (DEFAULT_MODEL, DEFAULT_REVISION)


@pytest.mark.parametrize(
    "model", [{"name": "/models/nli"}, {"name": "embedded"}, {"name": "owner/model", "revision": COMMIT}]
)
def test_accepts_a_folder_the_embedded_model_and_a_pinned_hub_id(model: dict[str, Any]) -> None:
    ModelArgs.model_validate(model)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "args.auth is required .*args.keys_file names no key file; .*nli-serve keys create"),
        ({"auth": "required"}, "nli-serve keys create"),
        ({"auth": "on"}, "'required' or 'off'"),
        ({"keys_file": "keys.json"}, "args.keys_file is 'keys.json'; it must be absolute"),
        ({"auth": "off", "keys_file": "~/keys.json"}, "it must be absolute"),
        ({"auth": "off", "modle": {}}, "modle"),
        ({"auth": "off", "model": {"nam": "x"}}, "nam"),
        ({"auth": "off", "model": {"name": "owner/model"}}, "pin it"),
        ({"auth": "off", "model": {"name": "owner/model", "revision": "main"}}, "revision"),
        ({"auth": "off", "model": {"name": "/models/nli", "revision": COMMIT}}, "belongs to a Hub id"),
        ({"auth": "off", "model": {"name": "./nli"}}, "an absolute folder"),
        ({"auth": "off", "model": {"name": "nli"}}, "an absolute folder"),
        ({"auth": "off", "deadline": {"default_s": 60, "max_s": 30}}, "exceeds"),
        ({"auth": "off", "deadline": {"default_s": float("nan")}}, "default_s"),
        ({"auth": "off", "caps": {"max_texts": 0}}, "max_texts"),
        ({"auth": "off", "trusted_proxies": ["10.0.0.1/8"]}, r"trusted_proxies\.0\s.*write 10\.0\.0\.0/8, or the"),
        ({"auth": "off", "trusted_proxies": ["::1", "nginx"]}, r"trusted_proxies\.1\s.*'nginx' is no network"),
        ({"auth": "off", "trusted_proxies": [167772160]}, r"trusted_proxies\.0\s.*is no network"),
        ({"auth": "off", "trusted_proxies": ["fe80::1%eth0"]}, r"trusted_proxies\.0\s.*is no network"),
        ({"auth": "off", "trusted_proxies": ["0.0.0.0/0"]}, r"trusted_proxies\.0\s.*would trust everybody"),
        ({"auth": "off", "trusted_proxies": "10.0.0.0/8"}, "trusted_proxies"),
    ],
)
def test_refuses_and_names_the_field(args: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AppArgs.model_validate(args)


def test_keys_are_required_unless_the_config_says_off() -> None:
    assert AppArgs(keys_file="/etc/nli/keys.json").auth == "required"


def test_trusted_proxies_are_addresses_and_networks_as_values_or_as_json() -> None:
    said = {"auth": "off", "trusted_proxies": ["10.0.0.0/8", "192.0.2.1", "fd00::/8"]}
    args = AppArgs.model_validate(said)

    assert args.trusted_proxies == [ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"), ip_network("fd00::/8")]
    assert AppArgs.model_validate_json(json.dumps(said), strict=True) == args
    assert AppArgs.model_validate(args.model_dump()) == args


def test_user_config_refuses_an_unknown_key() -> None:
    with pytest.raises(ValidationError, match="max_batch_token"):
        ClassifierConfig.model_validate({"max_batch_token": 1})
