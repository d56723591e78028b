"""Functions of two operands as images, and clouds of features."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from husai.plots.style import COLOURS


def maps(rows: Mapping[str, Sequence[tuple[str, Any]]], xlabel: str, ylabel: str) -> Figure:
    """Draw tables as images, one row a group, each (title, table) on a scale of its own from 0 to its largest value."""
    wide = max(len(panels) for panels in rows.values())
    figure, axes = plt.subplots(
        len(rows), wide, figsize=(1.9 * wide + 0.3, 2.15 * len(rows) + 0.2), squeeze=False, sharex=True, sharey=True
    )
    for line, (name, panels) in zip(axes, rows.items(), strict=True):
        for axis in line[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, table) in zip(line, panels, strict=False):
            values = np.asarray(table, float)
            axis.imshow(values, cmap="mako", vmin=0, vmax=max(values.max(), 1e-12), origin="lower")
            axis.set_title(title, fontsize=8.5)
            axis.grid(False)
            axis.tick_params(labelsize=7.5)
        line[0].set_ylabel(f"{name}\n{ylabel}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel, fontsize=9)
    return figure


def clouds(
    panels: Mapping[str, Mapping[str, tuple[Any, Any]]], xlabel: str, ylabel: str, columns: int = 3, **scales: Any
) -> Figure:
    """Draw one dot a feature, one panel a group, one colour and marker a kind {kind: (x, y)}; the first kind on top."""
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.7 * columns + 0.2, 2.6 * rows + 0.4), squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, kinds) in zip(axes.flat, panels.items(), strict=False):
        for index, (name, (x, y)) in enumerate(kinds.items()):
            axis.plot(
                x, y, "osx^"[index % 4], ms=3.2, mew=0.8 if index == 2 else 0, alpha=0.6, color=COLOURS[index],
                label=name, zorder=3 - 0.1 * index,
            )  # fmt: skip
        axis.set_title(title, fontsize=9.5)
        axis.set(**scales)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    for column in axes.T:
        shown = [axis for axis in column if axis.get_visible()]
        shown[-1].set_xlabel(xlabel)
        shown[-1].tick_params(labelbottom=True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=len(labels), markerscale=1.6)
    return figure
