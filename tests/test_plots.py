"""Figures show what they are given, and the same records give the same bytes."""

import matplotlib.pyplot as plt
import pytest

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
    rows = [
        {"step": step, **dict(zip(keys, estimates(*[step / 100] * 5), strict=True))} for step in (0, 8, 16)
    ]
    figure = plots.trajectories({"x": rows}, {"mean_max_cosine": 0.3}, {"x": 8})
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
