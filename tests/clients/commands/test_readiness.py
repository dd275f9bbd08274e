"""What the launcher asks of a service before it says ready; that a real one answers is shown in tests/launch."""

from __future__ import annotations

import httpx2

from clients.commands.readiness import _example


def test_where_the_caps_are_too_narrow_for_the_example_the_words_of_the_service_are_shown() -> None:
    refusal = {"type": "about:blank", "status": 422, "code": "invalid_request", "detail": "3 labels, at most 2"}

    def refuse(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(422, json=refusal)

    with httpx2.Client(base_url="http://service", transport=httpx2.MockTransport(refuse)) as http:
        assert _example(http) == "422, 3 labels, at most 2"
