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

ON_ONE_GPU = 4  # processes
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
    return _on_gpu(setting) if setting.device == "cuda" else _on_cpu(setting)


def _on_cpu(setting: Setting) -> list[Entry]:
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


def _on_gpu(setting: Setting) -> list[Entry]:
    """What has one process there, and the best of each with several on the one GPU."""
    several = setting._replace(processes=ON_ONE_GPU)
    ours = {replicas: Ours("torch", "fp16", device="cuda", replicas=replicas) for replicas in (1, ON_ONE_GPU)}
    return [
        Entry("bare best", Bare("torch", "fp16", "cuda")),
        Entry("ours best", ours[1]),
        Entry(f"ours best x{ON_ONE_GPU}", ours[ON_ONE_GPU]),
        Entry("bare fp32", Bare("torch", "fp32", "cuda")),
        Entry("ours fp32", Ours("torch", "fp32", device="cuda")),
        Entry("FastAPI", FastApi("FastAPI and pipeline, as users write it", device="cuda"), slow=True, peer=True),
        Entry(TUNED[0], FastApi("FastAPI and pipeline at its best", setting), peer=True),
        Entry(f"{TUNED[0]} x{ON_ONE_GPU}", FastApi("the same, several processes", several), peer=True),
        Entry(TUNED[1], RayServe("plain Ray Serve graph, @serve.batch", setting), peer=True),
        Entry(f"{TUNED[1]} x{ON_ONE_GPU}", RayServe("the same, several replicas", several), peer=True),
        Entry("thread pool", ThreadPool("cuda"), slow=True, peer=True),
    ]


def best_precision() -> str:
    """The fastest that this CPU has instructions for."""
    has = this_machine().instructions
    return next((name for name in ("int8", "bf16") if not has.isdisjoint(INSTRUCTIONS[name])), "fp32")
