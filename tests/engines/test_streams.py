from __future__ import annotations

import pytest

from deployments.engines.streams import divide


@pytest.mark.parametrize(("threads", "expected"), [(1, (1, 1)), (2, (2, 1)), (3, (1, 3)), (4, (2, 2)), (16, (2, 8))])
def test_streams_share_all_threads(threads: int, expected: tuple[int, int]) -> None:
    assert divide(threads) == expected
