"""How every figure looks, and where it is written."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FixedLocator, LogLocator, NullLocator

from husai.evidence import Estimate, output_directory
from husai.plots.shown import as_csv

COLOURS = sns.color_palette("colorblind")
STYLE = {
    "figure.dpi": 110, "savefig.bbox": "tight", "svg.hashsalt": "husai", "svg.fonttype": "path", "font.size": 10.5,
    "axes.titlesize": 10.5, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "figure.constrained_layout.use": True,
}  # fmt: skip
matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]


def save(figure: Figure, name: str, folder: Path | None = None) -> Figure:
    """Write the figure as `<name>.svg`, and what it shows as `<name>.csv`; close and return it.

    The folder is `figures/` in the output directory unless another is named.
    """
    folder = folder or Path(output_directory()) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawing = io.BytesIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    for suffix, content in (("svg", drawing.getvalue()), ("csv", as_csv(figure).encode())):
        unfinished = folder / f".{name}.{suffix}.{os.getpid()}"
        unfinished.write_bytes(content)
        os.replace(unfinished, folder / f"{name}.{suffix}")
    plt.close(figure)
    return figure


def plain_ticks(axis: Axes) -> None:
    """Label an x axis with plain numbers, unless its ticks were chosen.

    At the points themselves if there are three or fewer; at powers of two if it is logarithmic, or of ten where it goes
    far below one.
    """
    locator = axis.xaxis.get_major_locator()
    if axis.get_xscale() == "log":
        axis.xaxis.set_minor_locator(NullLocator())
        if not isinstance(locator, FixedLocator):
            base = 2 if axis.get_xlim()[0] > 0.1 else 10
            axis.xaxis.set(major_locator=LogLocator(base), major_formatter="{x:g}")
    elif isinstance(locator, AutoLocator):
        drawn = [line.get_xdata() for line in axis.lines if line.get_transform() == axis.transData]
        points = np.unique(np.concatenate([[], *drawn]))
        if 0 < len(points) <= 3:
            axis.set_xticks(points)


def band(axis: Axes, x: Any, estimates: Sequence[Estimate], colour: Any, label: str) -> None:
    """Draw estimates as a line with their intervals as a band."""
    axis.plot(x, [e.value for e in estimates], color=colour, lw=1.6, marker="o", ms=3, label=label)
    axis.fill_between(x, [e.low for e in estimates], [e.high for e in estimates], color=colour, alpha=0.2, lw=0)
