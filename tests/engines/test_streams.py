from __future__ import annotations

import pytest

from deployments.engines.streams import streams


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (2, 2), (3, 1), (4, 2), (16, 2)])
def test_an_even_number_of_threads_is_shared_by_two_streams(threads: int, expected: int) -> None:
    assert streams(threads) == expected
