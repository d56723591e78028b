"""Lines: something against steps, width, order or size."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from husai.evidence import Estimate
from husai.plots.style import COLOURS, band, plain_ticks


def grokking(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw train and held-out accuracy against steps, one panel a task, one line a model seed."""
    figure, axes = plt.subplots(1, len(curves), figsize=(3.6 * len(curves), 2.9), squeeze=False, sharey=True)
    for axis, (name, curve) in zip(axes[0], curves.items(), strict=True):
        steps = [max(entry["step"], 1) for entry in curve]
        for part, colour, label in (
            ("train", COLOURS[1], "pairs trained on"),
            ("held_out", COLOURS[0], "held-out pairs"),
        ):
            values = np.array([entry[part] for entry in curve])
            lines = axis.plot(steps, values, color=colour, lw=1.4, alpha=0.85)
            lines[0].set_label(label)
        axis.set(title=name, xlabel="optimiser step", ylim=(-0.02, 1.03))
    axes[0, 0].set_ylabel("accuracy")
    axes[0, -1].legend(loc="lower right")
    return figure


def trajectories(
    panels: Mapping[str, Sequence[Mapping[str, Any]]],
    null: Mapping[str, Mapping[str, float]],
    stopped_at: Mapping[str, int],
) -> Figure:
    """Draw scores (top) and FVU, alive share, |cos| to init (bottom) against steps; one column a substrate.

    `null` holds each column's isotropic line of a top-panel metric; `stopped_at` where the published protocol ended.
    """
    top = {"mean_max_cosine": "mean max cosine", "hungarian_mcc": "Hungarian MCC"}
    bottom = {"fvu": "FVU", "alive": "alive share", "init_cosine": "|cos| to own init"}
    figure, axes = plt.subplots(
        2, len(panels), figsize=(3.6 * len(panels) + 1.6, 5.2), squeeze=False, sharex=True, sharey="row"
    )
    for column, (name, rows) in zip(axes.T, panels.items(), strict=True):
        steps = np.array([max(row["step"], 4) for row in rows])
        for axis, labels, offset in ((column[0], top, 0), (column[1], bottom, 2)):
            for index, (key, label) in enumerate(labels.items()):
                band(axis, steps, [row[key] for row in rows], COLOURS[offset + index], label)
            axis.set_xscale("log", base=2)
        for key, value in null.get(name, {}).items():
            column[0].axhline(value, color=COLOURS[list(top).index(key)], ls=":", lw=1.2)
        if name in stopped_at:
            for axis in column:
                axis.axvline(stopped_at[name], color="0.45", lw=1, ls="--")
        column[0].set(title=name, ylim=(0, 1.02))
        column[1].set(xlabel="optimiser step (0 drawn at 4)", ylim=(0, 1.05))
    axes[0, 0].set_ylabel("similarity across seeds")
    for axis in axes[:, -1]:
        axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    return figure


def curves(
    series: Mapping[str, tuple[Any, Any]],
    xlabel: str,
    ylabel: str,
    points: Mapping[str, tuple[Any, Any]] | None = None,
    **scales: Any,
) -> Figure:
    """Draw named lines, and named points beside them; `scales` go to the axes (xscale, yscale, ylim, ...)."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2))
    for index, (name, (x, y)) in enumerate(series.items()):
        axis.plot(x, y, lw=1.6, color=COLOURS[index % len(COLOURS)], label=name)
    for index, (name, (x, y)) in enumerate((points or {}).items()):
        colour, marker = COLOURS[(len(series) + index) % len(COLOURS)], "osx^"[index % 4]
        axis.plot(x, y, marker, ms=6, mfc="none", mew=1.3, ls="", color=colour, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel, **scales)
    axis.legend(fontsize=8.5)
    return figure


def spectra(groups: Mapping[str, Any], xlabel: str, ylabel: str, **scales: Any) -> Figure:
    """Draw sorted, descending values on a logarithmic scale: one colour a group, one line a row [seeds, values]."""
    figure, axis = plt.subplots(figsize=(5.6, 3.3))
    for index, (name, rows) in enumerate(groups.items()):
        rows = np.atleast_2d(np.asarray(rows))
        order, colour = np.arange(1, rows.shape[1] + 1), COLOURS[index % len(COLOURS)]
        lines = axis.plot(order, rows.T, color=colour, lw=1.3, alpha=0.85)
        lines[0].set_label(name)
    axis.set(xlabel=xlabel, ylabel=ylabel, yscale="log", **scales)
    axis.legend(fontsize=8.5)
    return figure


def interval_panels(
    panels: Mapping[str, tuple[str, Mapping[str, tuple[Any, Sequence[Estimate]]]]], ylabel: str,
    lines: Mapping[str, float] | None = None, columns: int = 0, alike: bool = True, **scales: Any,
) -> Figure:  # fmt: skip
    """Draw estimates with interval bands against x, one panel a group (x label, {line: (x, estimates)}).

    The panels stand side by side, or in rows of so many columns, on one scale unless not `alike`.
    """
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.4 * columns + 0.4, 3.3 * rows), squeeze=False, sharey=alike)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, (xlabel, series)) in zip(axes.flat, panels.items(), strict=False):
        for index, (name, (x, estimates)) in enumerate(series.items()):
            band(axis, x, estimates, COLOURS[index % len(COLOURS)], name)
        for style, (label, level) in zip((":", "--", "-."), (lines or {}).items(), strict=False):
            axis.axhline(level, color="0.35", ls=style, lw=1.2, label=label)
        axis.set(title=title, xlabel=xlabel, **scales)
        plain_ticks(axis)
        axis.legend(fontsize=8.5)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    return figure


def curve_panels(
    panels: Mapping[str, tuple[str, str, Mapping[str, tuple[Any, Sequence[Any]]]]],
    columns: int = 2,
    marks: Mapping[str, float] | None = None,
    **scales: Any,
) -> Figure:
    """Draw lines, one panel a group (x label, y label, {line: (x, values)}), each panel with axes of its own.

    Values are numbers, or estimates, which get a band; `marks` are dotted vertical lines, one a panel; `scales` go to
    every axis (xscale, ylim, ...). A panel with the lines of the one before it has no legend.
    """
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.3 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    shown: list[str] = []
    for axis, (title, (xlabel, ylabel, series)) in zip(axes.flat, panels.items(), strict=False):
        for index, (name, (x, values)) in enumerate(series.items()):
            colour = COLOURS[index % len(COLOURS)]
            if isinstance(values[0], Estimate):
                band(axis, x, values, colour, name)
            else:
                axis.plot(x, values, color=colour, lw=1.4, ls="--", marker="s^Dv<>"[index % 6], ms=4, label=name)
        if title in (marks or {}):
            axis.axvline((marks or {})[title], color="0.45", lw=1, ls=":")
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel, **scales)
        plain_ticks(axis)
        if list(series) != shown:
            axis.legend(fontsize=8.5)
        shown = list(series)
    return figure


def cost_growth(growth: Mapping[str, Mapping[str, Sequence[Any]]]) -> Figure:
    """Draw milliseconds a SAE-step against seeds, d_sae, k and batch, beside the encoder product's."""
    names = {"seeds": "seeds trained at once", "d_sae": "d_sae", "k": "k", "batch": "batch"}
    shown = [what for what in names if what in growth]
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4))
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, what in zip(axes.flat, shown, strict=False):
        records = growth[what]
        for part, colour, label in (
            ("ours", COLOURS[0], "husai"),
            ("bound", COLOURS[7], "encoder product"),
        ):
            middle = np.array([entry["value"] for entry in records[part]])
            low, high = (np.array([entry[end] for entry in records[part]]) for end in ("low", "high"))
            axis.fill_between(records["size"], low, high, color=colour, alpha=0.2, lw=0)
            axis.plot(records["size"], middle, color=colour, marker="o", ms=4, lw=1.5, label=label)
        axis.set(xscale="log", yscale="log", xlabel=names[what], ylabel="ms a SAE-step")
        axis.set_xticks(records["size"], [f"{size:,}" for size in records["size"]], rotation=45, fontsize=8)
        axis.minorticks_off()
        axis.set_ylim(axis.get_ylim()[0] / 2, axis.get_ylim()[1] * 2)
    axes[0, 0].legend(loc="upper right")
    return figure
