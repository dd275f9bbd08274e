"""What the launcher says once the service answers; that it does is shown in tests/launch."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from clients.commands.launch import _say_how_to_call
from clients.commands.readiness import Ready
from clients.commands.service import Service
from deployments.contract.args import ModelArgs


@pytest.mark.parametrize("needs_key", [True, False])
def test_the_curl_to_try_has_the_header_for_a_key_only_where_one_is_needed(needs_key: bool) -> None:
    service = Service(Path("serve_config.yaml"), "nli", "127.0.0.1", 8000, ModelArgs(), needs_key)
    said = StringIO()

    _say_how_to_call(service, Ready("model", "torch-fp32", False, "repair (0.99)"), Console(file=said))

    assert ("-H 'Authorization: Bearer nli_...'" in said.getvalue()) == needs_key
    assert ("without a key it says" in said.getvalue()) == needs_key
