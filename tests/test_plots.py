"""Figures show what they are given, and the same records give the same bytes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
from scipy.spatial.distance import pdist

from husai import plots
from husai.evidence import Estimate


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def estimates(*values):
    return [Estimate(v, v - 0.1, v + 0.1, 5) for v in values]


def test_forest_gives_every_group_its_own_labels_and_order():
    groups = {
        "one": dict(zip("abc", estimates(0.1, 0.2, 0.3), strict=True)),
        "two": dict(zip("de", estimates(0.5, 0.6), strict=True)),
    }
    first, second = plots.forest(groups, "gap", 0.0, 0.02).axes
    assert [t.get_text() for t in first.get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in second.get_yticklabels()] == ["d", "e"]
    assert first.yaxis_inverted() and second.get_xlabel() == "gap"


def test_trajectories_draw_each_measure_with_its_band_and_the_chance_line():
    keys = ("mean_max_cosine", "hungarian_mcc", "fvu", "alive", "init_cosine")
    rows = [{"step": step, **dict(zip(keys, estimates(*[step / 100] * 5), strict=True))} for step in (0, 8, 16)]
    figure = plots.trajectories({"x": rows}, {"x": {"mean_max_cosine": 0.3}}, {"x": 8})
    top, bottom = figure.axes
    assert len(top.collections) == 2 and len(bottom.collections) == 3
    assert any(list(line.get_ydata()) == [0.3, 0.3] for line in top.lines)


def test_saved_figures_are_the_same_bytes_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSAI_OUT", str(tmp_path))
    texts = []
    for _ in range(2):
        plots.save(plots.curves({"line": ([1, 2], [3, 4])}, "x", "y"), "99_test")
        texts.append((tmp_path / "figures" / "99_test.svg").read_bytes())
    assert texts[0] == texts[1] and b"<svg" in texts[0]


def test_scatter_puts_every_point_at_its_estimates_with_both_intervals():
    points = list(zip(estimates(1.0, 2.0), estimates(0.5, 0.7), strict=True))
    (axis,) = plots.scatter({"one": points}, "L0", "score", lines={"N0": 0.2}, labels={"one": ["a", "b"]}).axes
    line = axis.lines[0]
    assert list(line.get_xdata()) == [1.0, 2.0] and list(line.get_ydata()) == [0.5, 0.7]
    across, up = (bars.get_segments()[0] for bars in axis.collections[:2])
    assert across[:, 0].tolist() == pytest.approx([0.9, 1.1]) and up[:, 1].tolist() == pytest.approx([0.4, 0.6])
    assert [text.get_text() for text in axis.texts] == ["a", "b"]


def test_reliability_draws_the_diagonal_beside_what_came_true():
    points = list(zip(estimates(0.2, 0.8), estimates(0.5, 0.7), strict=True))
    (axis,) = plots.reliability({"one": points}).axes
    assert list(axis.lines[0].get_xdata()) == [0.2, 0.8] and list(axis.lines[0].get_ydata()) == [0.5, 0.7]
    assert list(axis.lines[-1].get_xdata()) == list(axis.lines[-1].get_ydata()) == [0, 1]


def test_pairs_shows_every_pair_once_and_a_null_only_where_it_is_given():
    matrix = [[1, 0.1, 0.2], [0.1, 1, 0.3], [0.2, 0.3, 1]]
    rows = {"first": (matrix, *estimates(0.2)), "second": (matrix, *estimates(0.2))}
    (axis,) = plots.pairs({"panel": rows}, "score", {"N0": {"second": estimates(0.05)[0]}}).axes
    assert sorted(axis.lines[0].get_ydata()) == [0.1, 0.2, 0.3]
    levels = [line for line in axis.lines if line.get_label() == "N0"]
    assert [level.get_ydata().tolist() for level in levels] == [[0.05, 0.05]]
    assert 1 - 0.5 < levels[0].get_xdata()[0] < 1


def test_interval_panels_fill_rows_and_hide_what_is_left_over():
    panels = {name: ("width", {"line": ([1, 2], estimates(0.1, 0.2))}) for name in ("one", "two", "three")}
    axes = plots.interval_panels(panels, "score", columns=2).axes
    assert [axis.get_title() for axis in axes] == ["one", "two", "three", ""]
    assert [axis.get_visible() for axis in axes] == [True, True, True, False]
    assert [axis.get_ylabel() for axis in axes[:3]] == ["score", "", "score"]
    assert len(plots.interval_panels(panels, "score").axes) == 3


def test_curve_panels_keep_axes_lines_bands_and_marks_apart():
    (level,) = estimates(0.2)
    figure = plots.curve_panels(
        {"a": ("k", "score", {"one": ([1, 2], [level, level])}), "b": ("k", "bits", {"x": ([1, 2], [5, 3])})},
        marks={"b": 2.0},
    )
    first, second = figure.axes
    assert len(first.collections) == 1 and len(second.collections) == 0
    assert [axis.get_ylabel() for axis in (first, second)] == ["score", "bits"]
    assert list(second.lines[0].get_ydata()) == [5, 3] and list(second.lines[1].get_xdata()) == [2.0, 2.0]
    assert second.get_title() == "b" and len(first.lines) == 1


def test_logarithmic_axes_are_labelled_with_plain_numbers():
    points = list(zip(estimates(16.0, 1024.0), estimates(0.5, 0.7), strict=True))
    figure = plots.scatter({"one": points}, "d_sae", "score", xscale="log")
    figure.canvas.draw()
    (axis,) = figure.axes
    labels = [tick.get_text() for tick in axis.get_xticklabels()]
    assert {"16", "128", "1024"} <= set(labels) and axis.xaxis.get_minorticklocs().size == 0


def test_forest_takes_the_limits_of_its_axis():
    assert plots.forest({"one": {"a": estimates(0.5)[0]}}, "R²", 0.0, xlim=(-2, 1)).axes[0].get_xlim() == (-2, 1)


def test_heatmaps_write_every_value_and_frame_the_cells_asked_for():
    table = [[0.1, 0.25], [float("nan"), 0.9]]
    grid = {"group": (["one", "two"], ["a", "b"], {"panel": table, "other": table})}
    figure = plots.heatmaps(grid, "share", {"group": "k"}, "L0", {"group": {"panel": [[False, True], [False, False]]}})
    first, other = figure.axes[:2]
    assert sorted(text.get_text() for text in first.texts) == ["0.10", "0.25", "0.90"]
    assert [patch.get_xy() for patch in first.patches] == [(1, 0)] and not other.patches
    assert first.yaxis_inverted() and (first.get_xlabel(), first.get_ylabel()) == ("k", "L0")


def test_scatter_draws_a_cloud_in_the_colour_of_its_series():
    points = {name: list(zip(estimates(0.1, 0.2), estimates(0.3, 0.4), strict=True)) for name in ("one", "two")}
    (axis,) = plots.scatter(points, "x", "y", clouds={"two": ([0.1, 0.2, 0.5], [0.0, 0.4, 0.9])}).axes
    (cloud,) = [line for line in axis.lines if list(line.get_xdata()) == [0.1, 0.2, 0.5]]
    assert list(cloud.get_ydata()) == [0.0, 0.4, 0.9]
    assert cloud.get_color() == plots.COLOURS[1]


def test_scatter_draws_the_diagonal_only_when_asked():
    points = {"one": list(zip(estimates(0.2), estimates(0.4), strict=True))}
    with_it, without = (plots.scatter(points, "x", "y", diagonal=wanted).axes[0].lines for wanted in (True, False))
    assert len(with_it) == len(without) + 1


def test_panels_of_their_own_scale_do_not_share_an_axis():
    heights = {"small": (0.1, 0.2), "large": (8.0, 9.0)}
    panels = {name: ("x", {"line": ([1, 2], estimates(*pair))}) for name, pair in heights.items()}
    apart, alike = (plots.interval_panels(panels, "score", alike=value).axes for value in (False, True))
    assert apart[0].get_ylim()[1] < 1 < apart[1].get_ylim()[0] and alike[0].get_ylim() == alike[1].get_ylim()


def test_ticks_are_powers_of_ten_far_below_one_and_of_two_above():
    for low, high, wanted in ((1e-4, 0.5, "0.001"), (4.0, 512.0, "64")):
        points = list(zip(estimates(low + 0.1, high), estimates(0.5, 0.7), strict=True))
        (axis,) = plots.scatter({"one": points}, "x", "y", xscale="log", xlim=(low, high)).axes
        axis.figure.canvas.draw()
        assert wanted in {tick.get_text() for tick in axis.get_xticklabels()}


def test_maps_draw_one_image_a_table_each_on_its_own_scale():
    table = [[0.0, 1.0], [2.0, 4.0]]
    figure = plots.maps({"SAE": [("a", table), ("b", table)], "N2": [("c", [[0.0, 0.0], [0.0, 0.5]])]}, "b", "a")
    assert [axis.get_title() for axis in figure.axes if axis.get_visible()] == ["a", "b", "c"]
    assert [axis.images[0].get_clim() for axis in figure.axes if axis.images] == [(0, 4.0), (0, 4.0), (0, 0.5)]
    assert figure.axes[0].get_ylabel() == "SAE\na" and figure.axes[2].get_xlabel() == "b"


def test_clouds_draw_every_feature_and_one_legend():
    panels = {name: {"SAE": ([0.1, 0.2], [0.3, 0.4]), "N2": ([0.5], [0.6])} for name in "abcd"}
    figure = plots.clouds(panels, "x", "y", ylim=(0, 1))
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == list("abcd")
    assert list(shown[0].lines[0].get_xdata()) == [0.1, 0.2] and shown[3].get_ylim() == (0, 1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SAE", "N2"]


def test_stacked_shares_stand_end_to_end_with_their_intervals():
    rows = {"first": dict(zip("abc", estimates(0.2, 0.0, 0.5), strict=True))}
    axis, *_ = plots.stacked({"panel": rows}, "abc", "share").axes
    assert [patch.get_x() for patch in axis.patches] == pytest.approx([0, 0.2, 0.2])
    assert [patch.get_width() for patch in axis.patches] == pytest.approx([0.2, 0, 0.5])
    ends = [lines.get_segments()[0][:, 0].tolist() for lines in axis.collections]
    assert ends == [pytest.approx([0.1, 0.3]), pytest.approx([0.6, 0.8])], "none for what is not there"
    (legend,) = axis.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "c"]


# Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency",
# IEEE Transactions on Visualization and Computer Graphics 15(6), table 1: severity 1.0, on linear RGB.
SEEN = {
    "all colours": np.eye(3),
    "no red cones":
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones":
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue cones":
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def nearest(colours, matrix):
    """Return the smallest distance (CIE 1976, L*a*b*) between two of the colours, seen through the matrix."""
    rgb = np.asarray(colours)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(linear @ np.transpose(matrix), 0, 1) @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    return pdist(lab).min()


@pytest.mark.parametrize("who", SEEN)
def test_the_colours_of_figures_differ_for_everyone(who):
    """A distance of 2.3 can just be noticed; matplotlib's own colours come as near as 5 for some readers."""
    assert nearest(plots.COLOURS, SEEN[who]) > 10


def test_the_measure_of_colours_finds_a_palette_that_is_not_for_everyone():
    assert nearest(sns.color_palette("tab10"), SEEN["all colours"]) > 10
    assert min(nearest(sns.color_palette("tab10"), SEEN[who]) for who in SEEN) < 8
    assert nearest([(0, 0, 0), (1, 1, 1)], np.eye(3)) == pytest.approx(100, abs=0.1)


def test_few_points_are_ticks_and_ticks_that_were_chosen_stay():
    linear = {"x": ("rows", {"y": ([10_000, 30_000], estimates(0.1, 0.2))})}
    figure = plots.interval_panels(linear, "y", {"equal": 0.0})
    assert figure.axes[0].get_xticks().tolist() == [10_000, 30_000]
    chosen = {"x": ("weight", "y", {"y": ([0.1, 1], estimates(0.1, 0.2))})}
    figure = plots.curve_panels(chosen, xscale="log", xticks=[0.1, 1], xticklabels=[0, 1])
    figure.draw_without_rendering()
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "1"]
    assert list(figure.axes[0].get_xticks(minor=True)) == []
