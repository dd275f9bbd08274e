from __future__ import annotations

import json

import pytest

from deployments.web.json import Json

VALUES = {"scores": [0.1 + 0.2, 1e-7, 5e-324, 1.0], "labels": ["Größe", "数学", "🙂", '"\\\x00'], "fallback": False}


def test_what_goes_out_is_what_the_standard_library_reads() -> None:
    assert json.loads(bytes(Json(VALUES).body)) == VALUES


def test_text_that_is_no_unicode_is_a_bug_and_never_sent() -> None:
    with pytest.raises(TypeError, match="surrogates not allowed"):
        Json({"labels": ["\ud800"]})
