"""Who takes part, in the order of a round, and in which cells."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.engines.choice import INSTRUCTIONS, this_machine

from .cells import Cell
from .system import System
from .systems.bare import Bare
from .systems.fastapi import FastApi
from .systems.ours import Ours
from .systems.pipeline import Setting
from .systems.ray_serve import RayServe
from .systems.thread_pool import ThreadPool

TUNED = ("FastAPI tuned", "Ray Serve")  # with the setting that is fastest here


@dataclass(frozen=True, slots=True)
class Entry:
    """A system, and what it is asked."""

    key: str
    """Short, for the command line and the heads of the table."""

    system: System
    slow: bool = False
    peer: bool = False
    """Of its cells with a goal only the base has one."""

    cached: bool = False

    def takes(self, cell: Cell, round_number: int, base: Cell) -> bool:
        """Whether the cell is measured in this round."""
        if self.cached:
            return bool(cell.warm)
        if self.slow and cell.dear:
            return False
        if self.peer and cell.goal:
            return cell is base
        return cell.goal or round_number == 0


def lineup(setting: Setting) -> list[Entry]:
    """All of them.

    Args:
        setting: the best one for the pipeline.
    """
    precision = best_precision()
    return [
        Entry("bare best", Bare("openvino", precision)),
        Entry("ours best", Ours("openvino", precision)),
        Entry("ours best, cache", Ours("openvino", precision, cache=True), cached=True),
        Entry("bare fp32", Bare("auto", "fp32"), slow=True),
        Entry("ours fp32", Ours("auto", "fp32"), slow=True),
        Entry("FastAPI", FastApi("FastAPI and pipeline, as users write it"), slow=True, peer=True),
        Entry(TUNED[0], FastApi("FastAPI and pipeline at its best", setting), slow=True, peer=True),
        Entry(TUNED[1], RayServe("plain Ray Serve graph, @serve.batch", setting), slow=True, peer=True),
        Entry("thread pool", ThreadPool(), slow=True, peer=True),
    ]


def best_precision() -> str:
    """The fastest that this CPU has instructions for."""
    has = this_machine().instructions
    return next((name for name in ("int8", "bf16") if not has.isdisjoint(INSTRUCTIONS[name])), "fp32")
