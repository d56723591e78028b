"""Figures: each function takes records, computes nothing, and returns a matplotlib Figure."""

from husai.plots.bars import frequency_spectrum, heatmaps, stacked
from husai.plots.curves import (
    cost_growth,
    curve_panels,
    curves,
    grokking,
    interval_panels,
    spectra,
    trajectories,
)
from husai.plots.intervals import forest, pairs, reliability, scatter
from husai.plots.maps import clouds, maps
from husai.plots.style import COLOURS, STYLE, save

__all__ = [
    "COLOURS", "STYLE", "clouds", "cost_growth", "curve_panels", "curves", "forest", "frequency_spectrum", "grokking",
    "heatmaps", "interval_panels", "maps", "pairs", "reliability", "save", "scatter", "spectra", "stacked",
    "trajectories",
]  # fmt: skip
