"""Estimates with their intervals: one below another, one against another, or beside every pair of seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from husai.evidence import Estimate
from husai.plots.style import COLOURS, plain_ticks


def forest(
    groups: Mapping[str, Mapping[str, Estimate]],
    xlabel: str,
    zero: float | None = None,
    margin: float | None = None,
    **scales: Any,
) -> Figure:
    """Draw estimates with intervals, one row each, groups below one another; a line at `zero`, a band of +-margin.

    `scales` go to the shared x axis (xlim, xscale).
    """
    heights = [len(rows) for rows in groups.values()]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(5.6, 0.24 * sum(heights) + 0.55 * len(groups) + 0.5),
        squeeze=False,
        sharex=True,
        height_ratios=heights,
    )
    for axis, (name, rows) in zip(axes[:, 0], groups.items(), strict=True):
        for index, estimate in enumerate(rows.values()):
            error = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
            axis.errorbar(estimate.value, index, xerr=error, fmt="o", color=COLOURS[0], ms=4.5, capsize=2.5, lw=1.4)
        if zero is not None:
            axis.axvline(zero, color="0.35", lw=1)
        if margin is not None:
            axis.axvspan(-margin, margin, color=COLOURS[2], alpha=0.15, lw=0)
        axis.set(yticks=range(len(rows)), yticklabels=list(rows))
        axis.set_title(name, loc="left")
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="y", alpha=0)
    axes[-1, 0].set(xlabel=xlabel, **scales)
    return figure


def scatter(
    series: Mapping[str, Sequence[tuple[Estimate, Estimate]]],
    xlabel: str,
    ylabel: str,
    joined: bool = True,
    lines: Mapping[str, float] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    diagonal: bool = False,
    clouds: Mapping[str, tuple[Any, Any]] | None = None,
    **scales: Any,
) -> Figure:
    """Draw (x, y) estimates with both intervals, one colour and marker a series; `joined` in the order given.

    `lines` are named levels of y; `labels` are written beside the points of a series; `diagonal` draws y = x; `clouds`
    are single observations (x, y) of a series, faint behind its estimates.
    """
    figure, axis = plt.subplots(figsize=(5.6, 3.8))
    for index, (name, points) in enumerate(series.items()):
        colour, marker = COLOURS[index % len(COLOURS)], "os^Dv<>PX*"[index % 10]
        if name in (clouds or {}):
            axis.plot(*(clouds or {})[name], ".", color=colour, ms=3, mew=0, alpha=0.3, zorder=0)
        x, y = (np.array([point[side].value for point in points]) for side in (0, 1))
        spread = [
            np.array([[e.value - e.low, e.high - e.value] for e in (point[side] for point in points)]).T
            for side in (0, 1)
        ]
        axis.errorbar(
            x, y, xerr=spread[0], yerr=spread[1], color=colour, marker=marker, ms=5, lw=1.2, elinewidth=1, capsize=2,
            ls="-" if joined else "", label=name,
        )  # fmt: skip
        for number, (text, *at) in enumerate(zip((labels or {}).get(name, ()), x, y, strict=False)):
            beside = (4, -10 if number % 2 else 4)  # in turn above and below, or those of near points touch
            axis.annotate(text, tuple(at), beside, textcoords="offset points", fontsize=8, color=colour)
    for style, (label, level) in zip((":", "--", "-."), (lines or {}).items(), strict=False):
        axis.axhline(level, color="0.45", ls=style, lw=1.2, label=label)
    if diagonal:
        axis.axline((0, 0), slope=1, color="0.7", lw=1, zorder=0)
    axis.set(xlabel=xlabel, ylabel=ylabel, **scales)
    plain_ticks(axis)
    axis.legend(fontsize=8.5, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def reliability(series: Mapping[str, Sequence[tuple[Estimate, Estimate]]]) -> Figure:
    """Draw predicted probabilities against the share that came true, one line a series, beside the diagonal."""
    figure = scatter(series, "predicted probability", "share that came true", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    figure.axes[0].plot([0, 1], [0, 1], color="0.45", ls="--", lw=1.2)
    return figure


def pairs(
    panels: Mapping[str, Mapping[str, tuple[Any, Estimate]]],
    ylabel: str,
    nulls: Mapping[str, Mapping[str, Estimate]] | None = None,
    **scales: Any,
) -> Figure:
    """Draw the score of every pair of seeds as a dot beside the estimate over seeds, one column a condition.

    `panels` is {panel: {condition: (matrix [seeds, seeds], estimate)}}; `nulls`, {name: {condition: estimate}}, are
    drawn as bars across the column, one grey a null.
    """
    width = sum(len(rows) for rows in panels.values())
    figure, axes = plt.subplots(
        1, len(panels), figsize=(0.85 * width + 2.2, 3.6), squeeze=False, sharey=True,
        width_ratios=[len(rows) for rows in panels.values()],
    )  # fmt: skip
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for column, (condition, (matrix, estimate)) in enumerate(rows.items()):
            scores = np.asarray(matrix)[np.triu_indices(len(matrix), 1)]
            jitter = np.linspace(-0.28, -0.06, len(scores))
            axis.plot(column + jitter, scores, "o", ms=3, color=COLOURS[0], alpha=0.45, mew=0)
            error = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
            axis.errorbar(column + 0.16, estimate.value, yerr=error, fmt="o", color=COLOURS[0], ms=5, capsize=3)
            for shade, (name, levels) in zip(("0.25", "0.5", "0.68"), (nulls or {}).items(), strict=False):
                if condition in levels:
                    level = levels[condition]
                    axis.fill_between(
                        [column - 0.38, column + 0.38], level.low, level.high, color=shade, alpha=0.3, lw=0
                    )
                    axis.plot([column - 0.38, column + 0.38], [level.value] * 2, color=shade, lw=1.6, label=name)
        axis.set(title=title, xticks=range(len(rows)), xticklabels=list(rows), **scales)
        axis.grid(axis="x", alpha=0)
    axes[0, 0].set_ylabel(ylabel)
    handles = {name: handle for axis in axes[0] for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        axes[0, -1].legend(handles.values(), handles.keys(), fontsize=8.5, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure
