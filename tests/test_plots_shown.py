"""What a figure's data file holds is what its records held, whatever the kind of figure."""

import csv
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from husai import plots
from husai.evidence import Estimate
from husai.plots.shown import as_csv


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def rows(figure, **wanted):
    found = list(csv.DictReader(io.StringIO(as_csv(figure))))
    assert found and not any(None in row or None in row.values() for row in found), "every line has every column"
    return [row for row in found if all(row.get(name, "") == value for name, value in wanted.items())]


def numbers(found, *names):
    return [tuple(float(row[name]) for name in names) for row in found]


def estimate(value, width=0.1):
    return Estimate(value, value - width, value + width, 5)


def test_a_forest_gives_back_its_estimates_by_name_and_its_margin():
    groups = {"one": {"a": estimate(0.25), "b": estimate(0.5)}, "two": {"c": estimate(-0.5)}}
    figure = plots.forest(groups, "gap", 0.0, 0.02)
    assert [(r["panel"], r["y_name"]) for r in rows(figure, mark="point")] == [("one", "a"), ("one", "b"), ("two", "c")]
    assert numbers(rows(figure, mark="point"), "x", "x_low", "x_high") == [
        (0.25, 0.15, 0.35), (0.5, 0.4, 0.6), (-0.5, -0.6, -0.4),
    ]  # fmt: skip
    assert numbers(rows(figure, mark="span", panel="two"), "x_low", "x_high") == [(-0.02, 0.02)]
    assert numbers(rows(figure, mark="level", panel="one"), "x") == [(0.0,)]
    assert {row["x_axis"] for row in rows(figure)} == {"gap"}


def test_lines_keep_their_bands_and_points_their_names():
    series = {
        "a": ([1, 2, 4], [estimate(v) for v in (0.5, 0.75, 1.0)]),
        "b": ([1, 2], [estimate(v) for v in (3.0, 4.0)]),
    }
    figure = plots.interval_panels(
        {"p": ("size", series), "q": ("rate", {"c": ([7], [estimate(1.0)])})}, "score", {"chance": 0.5}
    )
    assert numbers(rows(figure, series="a"), "x", "y", "y_low", "y_high") == [
        (1, 0.5, 0.4, 0.6), (2, 0.75, 0.65, 0.85), (4, 1, 0.9, 1.1),
    ]  # fmt: skip
    assert numbers(rows(figure, series="b"), "y_low", "y_high") == [(2.9, 3.1), (3.9, 4.1)]
    assert numbers(rows(figure, series="chance", panel="p"), "y") == [(0.5,)] and not rows(figure, mark="band")
    assert [row["y_axis"] for row in rows(figure, series="c")] == ["score"], "a shared label is every panel's"

    points = [(estimate(1.0, 0.2), estimate(2.0)), (estimate(3.0, 0.2), estimate(4.0))]
    figure = plots.scatter(
        {"s": points}, "x", "y", labels={"s": ["near", "far"]}, clouds={"s": ([1, 3], [5, 6])}, diagonal=True
    )
    assert numbers(rows(figure, name="far"), "x", "x_low", "x_high", "y", "y_low", "y_high") == [
        (3, 2.8, 3.2, 4, 3.9, 4.1)
    ]
    assert numbers(rows(figure, series="", mark="point"), "x", "y") == [(1, 5), (3, 6)]


def test_every_pair_of_seeds_stands_under_its_condition_beside_its_null():
    matrix = np.array([[1, 0.25, 0.5], [0.25, 1, 0.75], [0.5, 0.75, 1]])
    columns = {"p": {"real": (matrix, estimate(0.5)), "shuffled": (matrix / 2, estimate(0.25))}}
    figure = plots.pairs(columns, "score", {"N2": {"shuffled": estimate(0.125, 0.0625)}})
    dots = [row for row in rows(figure, mark="point", x_name="shuffled") if not row["y_low"]]
    assert numbers(dots, "y") == [(0.125,), (0.25,), (0.375,)]
    assert numbers(rows(figure, series="N2"), "y", "y_low", "y_high") == [(0.125, 0.0625, 0.1875)] * 2
    assert {row["x_name"] for row in rows(figure, series="N2")} == {"shuffled"}


def test_bars_cells_and_images_give_back_their_values():
    shares = {"kept": estimate(0.25), "lost": estimate(0.75)}
    found = rows(plots.stacked({"p": {"base": shares}}, ["kept", "lost"], "share"), mark="bar")
    assert [(r["series"], r["y_name"]) for r in found] == [("kept", "base"), ("lost", "base")]
    assert numbers(found, "value", "x", "x_low", "x_high") == [(0.25, 0.25, 0.15, 0.35), (0.75, 1, 0.9, 1.1)]

    found = rows(plots.frequency_spectrum({"m": [0.5, 0.25, 0.125]}, 1), mark="bar")
    assert numbers(found, "x", "value") == [(1, 0.5), (2, 0.25), (3, 0.125)]

    table = np.array([[0.25, 0.5], [np.nan, 1]])
    framed = {"g": {"t": np.array([[False, True], [False, False]])}}
    figure = plots.heatmaps({"g": (["r", "s"], ["u", "v"], {"t": table})}, "share", framed=framed)
    cells = {(row["y_name"], row["x_name"]): row["value"] for row in rows(figure, mark="cell")}
    assert cells == {("r", "u"): "0.25", ("r", "v"): "0.5", ("s", "u"): "", ("s", "v"): "1"}
    assert [(r["y_name"], r["x_name"]) for r in rows(figure, mark="frame")] == [("r", "v")]

    image = np.arange(6).reshape(2, 3)
    found = rows(plots.maps({"row": [("t", image)]}, "b", "a"), mark="cell")
    assert [image[int(y), int(x)] for y, x in numbers(found, "y", "x")] == [v for (v,) in numbers(found, "value")]
    assert len(found) == 6


def test_words_on_an_axis_name_the_points():
    figure = plots.interval_panels({"p": ("layer", {"s": (["first", "second"], [estimate(0.25), estimate(0.5)])})}, "y")
    found = rows(figure, series="s")
    assert [row["x_name"] for row in found] == ["first", "second"]
    assert numbers(found, "x", "y") == [(0, 0.25), (1, 0.5)]


def test_a_gap_in_a_line_stays_a_gap():
    assert [row["y"] for row in rows(plots.curves({"a": ([1, 2], [np.nan, 2.0])}, "x", "y"))] == ["", "2"]


def test_data_lie_beside_the_drawing_and_leave_it_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSAI_OUT", str(tmp_path))
    drawn = {"line": ([1, 2], [3, 4])}
    plots.curves(drawn, "x", "y").savefig(tmp_path / "alone.svg", metadata={"Date": None})
    figure = plots.curves(drawn, "x", "y")
    expected = as_csv(figure)
    plots.save(figure, "99_test")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["99_test.csv", "99_test.svg"]
    assert (tmp_path / "figures/99_test.svg").read_bytes() == (tmp_path / "alone.svg").read_bytes()
    assert (tmp_path / "figures/99_test.csv").read_text() == expected
