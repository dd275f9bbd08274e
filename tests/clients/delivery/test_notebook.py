"""In a cell of a notebook, which runs inside an event loop: a real kernel of Jupyter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parent.parent.parent.parent
LIMIT_S = 60
CELLS = (
    """
import asyncio
from tests.clients.delivery.fake import LABELS, FakeService, client_of
assert asyncio.get_running_loop().is_running()
client = client_of(FakeService(), max_in_flight=4)
""",
    "assert client.classify('a', LABELS).label == 'a'",
    "assert [row.label for row in client.map(list('abcdef'), LABELS)] == list('abcdef')",
    "futures = [client.submit(text, LABELS) for text in 'abcdefgh']",
    "assert sorted(future.result().label for future in client.as_completed(futures)) == list('abcdefgh')",
    "assert (await client.submit('b', LABELS)).label == 'b'",
    "client.close()",
)


@pytest.fixture
def kernel() -> Iterator[BlockingKernelClient]:
    manager = KernelManager()
    manager.start_kernel(cwd=str(ROOT))
    kernel = manager.client()
    kernel.start_channels()
    try:
        kernel.wait_for_ready(timeout=LIMIT_S)
        yield kernel
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_cell_may_wait_for_answers_and_await_them(kernel: BlockingKernelClient) -> None:
    for cell in CELLS:
        reply = kernel.execute_interactive(cell, timeout=LIMIT_S)["content"]
        assert reply["status"] == "ok", "\n".join(reply["traceback"])
