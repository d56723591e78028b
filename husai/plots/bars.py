"""Bars and tables of values: spectra of frequencies, stacked shares, heat maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from seaborn.utils import relative_luminance

from husai.evidence import Estimate
from husai.plots.style import COLOURS


def frequency_spectrum(power: Mapping[str, Any], highlight: int = 10) -> Figure:
    """Draw each frequency's share of the embedding's squared norm, one panel a model; the strongest are coloured."""
    figure, axes = plt.subplots(1, len(power), figsize=(3.2 * len(power), 2.5), squeeze=False, sharey=True)
    for axis, (name, shares) in zip(axes[0], power.items(), strict=True):
        shares = np.asarray(shares)
        strong = np.argsort(shares)[::-1][:highlight]
        colours = [COLOURS[3] if k in strong else COLOURS[7] for k in range(len(shares))]
        axis.bar(np.arange(1, len(shares) + 1), shares, color=colours, width=0.9)
        axis.set(title=name, xlabel="frequency")
    axes[0, 0].set_ylabel("share of squared norm")
    return figure


def heatmaps(
    grid: Mapping[str, tuple[Sequence[str], Sequence[str], Mapping[str, Any]]],
    label: str,
    xlabels: Mapping[str, str] | None = None,
    ylabel: str = "",
    framed: Mapping[str, Mapping[str, Any]] | None = None,
    width: float = 11,
) -> Figure:
    """Draw rows of annotated heat maps, one row a group (row names, column names, {panel: table}); NaN stays grey.

    `xlabels` are the groups' x labels; `framed`, {group: {panel: table of booleans}}, puts a frame around the cells
    that are true.
    """
    tall = [len(rows) for rows, _, _ in grid.values()]
    figure = plt.figure(figsize=(width, 0.29 * sum(tall) + (0.95 if xlabels else 0.75) * len(grid)))
    parts = figure.subfigures(len(grid), 1, squeeze=False, height_ratios=tall)[:, 0]
    for part, (name, (rows, columns, panels)) in zip(parts, grid.items(), strict=True):
        axes = part.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, table) in zip(axes, panels.items(), strict=True):
            values = np.ma.masked_invalid(np.asarray(table, dtype=float))
            mesh = axis.pcolormesh(values, cmap="crest", vmin=0, vmax=1, edgecolors="w", linewidth=0.5)
            for (y, x), value in np.ma.ndenumerate(values):
                ink = ".15" if relative_luminance(mesh.to_rgba(value)) > 0.408 else "w"
                axis.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
            axis.set_xticks(np.arange(len(columns)) + 0.5, list(columns))
            axis.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
            axis.set_ylim(len(rows), 0)
            axis.set(title=f"{name}: {title}", facecolor="0.9")
            for y, x in np.argwhere(np.asarray((framed or {}).get(name, {}).get(title, np.zeros((0, 0))))):
                axis.add_patch(Rectangle((x, y), 1, 1, fill=False, ec=COLOURS[3], lw=2.2, clip_on=False))
            axis.set_xlabel((xlabels or {}).get(name, ""))
            axis.grid(False)
            axis.tick_params(axis="both", rotation=0, labelsize=8.5, length=0)
        axes[0].set_ylabel(ylabel)
        part.colorbar(axes[0].collections[0], ax=list(axes), label=label, aspect=30, pad=0.01)
    return figure


def stacked(panels: Mapping[str, Mapping[str, Mapping[str, Estimate]]], kinds: Sequence[str], xlabel: str) -> Figure:
    """Draw the shares of some kinds end to end, one bar a condition, {panel: {condition: {kind: share}}}.

    Panels stand below one another. At the end of every share stands its interval, each at a height of its own; a kind
    that is nowhere above 0 is not in the legend.
    """
    heights = [len(rows) for rows in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(5.8, 0.5 * sum(heights) + 0.45 * len(panels) + 0.9), squeeze=False, sharex=True,
        height_ratios=heights,
    )  # fmt: skip
    for axis, (title, rows) in zip(axes[:, 0], panels.items(), strict=True):
        for place, shares in enumerate(rows.values()):
            left = 0.0
            for index, kind in enumerate(kinds):
                share, colour = shares[kind], COLOURS[index % len(COLOURS)]
                end = left + share.value
                axis.barh(place, share.value, 0.76, left, color=colour, alpha=0.75, lw=0, label=kind)
                error = [[share.value - share.low], [share.high - share.value]]
                height = place - 0.3 + 0.6 * index / max(1, len(kinds) - 1)
                if share.value > 0:
                    axis.errorbar(end, height, xerr=error, color="0.3", capsize=2, lw=1)
                left = end
        axis.set(yticks=range(len(rows)), yticklabels=list(rows), xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
        axis.set_title(title, loc="left")
        axis.grid(axis="y", alpha=0)
    axes[-1, 0].set_xlabel(xlabel)
    every = [shares for rows in panels.values() for shares in rows.values()]
    handles = dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True))
    shown = [kind for kind in handles if any(shares[kind].value > 0 for shares in every)]
    figure.legend([handles[kind] for kind in shown], shown, fontsize=8.5, ncols=3, loc="outside lower center")
    return figure
