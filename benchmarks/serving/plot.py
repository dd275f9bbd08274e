"""Bars of the base cell, as an SVG for docs/bench.md."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from .report import Results


def plot(results: Results, cell: str, file: Path) -> None:
    """One bar for each system that ran the cell."""
    found = [(name, number) for name in results.values if (number := results.median(name, cell)) is not None]
    names, numbers = zip(*reversed(found), strict=True)
    figure = Figure(figsize=(7, 0.4 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    colours = ["#1f77b4" if name.startswith("ours") else "#b0b0b0" for name in names]
    axes.bar_label(axes.barh(names, numbers, color=colours), fmt="%.0f", padding=3)
    axes.set(xlabel=f"pairs/s; {cell}")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
