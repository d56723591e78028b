"""The numbers that a figure shows, read back from what was drawn: one row a mark."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import UnitData
from matplotlib.collections import FillBetweenPolyCollection, PathCollection, QuadMesh
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import AxLine, Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter

COLUMNS = (
    "panel", "series", "mark", "name", "x_name", "y_name", "x", "x_low", "x_high", "y", "y_low", "y_high", "value",
    "x_axis", "y_axis",
)  # fmt: skip
"""`mark` says what was drawn; `value` is a cell's or a bar's; names are those of the ticks, or written at the mark."""

Row = dict[str, Any]


def as_csv(figure: Figure) -> str:
    """Return the rows of `marks` as CSV to six digits, without the columns that stay empty."""
    found = [{name: _text(value) for name, value in row.items()} for row in marks(figure)]
    kept = [name for name in COLUMNS if any(row.get(name) for row in found)]
    lines = io.StringIO()
    writer = csv.DictWriter(lines, kept, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return lines.getvalue()


def marks(figure: Figure) -> list[Row]:
    """Return everything that stands for a number: points, lines with their bands, intervals, bars, cells, levels."""
    found = []
    for axis in figure.axes:
        if axis.get_visible() and axis.get_label() != "<colorbar>":
            common = {"panel": axis.get_title() or axis.get_title("left")}
            common |= {"x_axis": _axis_label(axis, "x"), "y_axis": _axis_label(axis, "y")}
            ticks = {"x": _ticks(axis.xaxis), "y": _ticks(axis.yaxis)}
            for row in _of(axis):
                named = {f"{side}_name": _nearest(row.get(side), ticks[side]) for side in "xy"}
                found.append(common | named | row)
    return found


def _of(axis: Axes) -> Iterator[Row]:
    """Yield the marks of one panel."""
    intervals = [part for part in axis.containers if isinstance(part, ErrorbarContainer)]
    bars = [row for part in axis.containers if isinstance(part, BarContainer) for row in _bars(part)]
    pieces = {id(piece) for part in intervals for piece in (part.lines[0], *part.lines[1])}
    pieces |= {id(bar) for part in axis.containers if isinstance(part, BarContainer) for bar in part.patches}
    names = {tuple(map(float, note.xy)): note.get_text() for note in axis.texts if isinstance(note, Annotation)}
    yield from _with_ends(bars, [row for part in intervals for row in _intervals(part, names)])
    bands = [band for band in axis.collections if isinstance(band, FillBetweenPolyCollection)]
    for line in axis.lines:
        if id(line) not in pieces and not isinstance(line, AxLine):
            yield from _line(axis, line, bands)
    for band in bands:
        yield from ({"mark": "band", "x": x, "y_low": low, "y_high": high} for x, (low, high) in _edges(band).items())
    for collection in axis.collections:
        if isinstance(collection, QuadMesh):
            yield from _cells(np.ma.asarray(collection.get_array()), 0.5)
        elif isinstance(collection, PathCollection):
            points = np.asarray(collection.get_offsets())
            yield from ({"series": _label(collection), "mark": "point", "x": x, "y": y} for x, y in points)
    for image in axis.images:
        yield from _cells(np.ma.asarray(image.get_array()), 0.0)
    for patch in axis.patches:
        if isinstance(patch, Rectangle) and id(patch) not in pieces:
            yield _rectangle(axis, patch)


def _line(axis: Axes, line: Line2D, bands: list[FillBetweenPolyCollection]) -> Iterator[Row]:
    """Yield the points of a line, each with its ends where a band goes with the line, or a level across the panel."""
    x, y = (np.atleast_1d(np.asarray(side, dtype=float)) for side in line.get_data(orig=False))
    across, up = line.get_transform().contains_branch_seperately(axis.transData)
    if not (across and up):
        yield {"series": _label(line), "mark": "level", **({"x": x[0]} if across else {"y": y[0]})}
        return
    ends = _around(x, y, bands)
    mark = "point" if line.get_linestyle() in ("None", "", " ") else "line"
    for at, height in zip(x, y, strict=True):
        low, high = ends.get(at, (None, None))
        yield {"series": _label(line), "mark": mark, "x": at, "y": height, "y_low": low, "y_high": high}


def _around(x: Any, y: Any, bands: list[FillBetweenPolyCollection]) -> dict[float, tuple[float, float]]:
    """Take the band that runs along a line and around it out of `bands`, and return its edges; none without one."""
    for band in bands:
        edges = _edges(band)
        if all(at in edges and edges[at][0] <= height <= edges[at][1] for at, height in zip(x, y, strict=True)):
            bands.remove(band)
            return edges
    return {}


def _edges(band: FillBetweenPolyCollection) -> dict[float, tuple[float, float]]:
    """Return {x: (low, high)} of a band; its outline runs along one edge and back along the other."""
    found = {}
    for path in band.get_paths():
        points = np.asarray(path.vertices)
        n = (len(points) - 3) // 2
        for (x, low), (_, high) in zip(points[1 : n + 1], points[n + 2 : 2 * n + 2][::-1], strict=True):
            found[float(x)] = (float(low), float(high))
    return found


def _intervals(part: ErrorbarContainer, names: dict[tuple[float, ...], str]) -> Iterator[Row]:
    """Yield the points of an error bar with the ends of their intervals."""
    line, _, lines = part.lines
    sides = [side for side, drawn in (("x", part.has_xerr), ("y", part.has_yerr)) if drawn]
    ends = {side: np.asarray(bars.get_segments()) for side, bars in zip(sides, lines, strict=True)}
    for index, (x, y) in enumerate(zip(*map(np.atleast_1d, line.get_data(orig=False)), strict=True)):
        row = {"series": _label(part), "mark": "point", "name": names.get((float(x), float(y))), "x": x, "y": y}
        for side, segments in ends.items():
            low, high = segments[index][:, "xy".index(side)]
            row |= {f"{side}_low": low, f"{side}_high": high}
        yield row


def _bars(part: BarContainer) -> Iterator[Row]:
    """Yield the bars with where they end; `value` is their length."""
    lying = part.orientation == "horizontal"
    for bar in part.patches:
        (left, bottom), wide, tall = bar.get_xy(), bar.get_width(), bar.get_height()
        place = {"x": left + wide, "y": bottom + tall / 2} if lying else {"x": left + wide / 2, "y": bottom + tall}
        yield {"series": _label(part), "mark": "bar", **place, "value": wide if lying else tall}


def _with_ends(bars: list[Row], intervals: list[Row]) -> list[Row]:
    """Give a bar the interval that stands at its end, and return both kinds."""
    free = []
    for row in intervals:
        at_end = (abs(bar["x"] - row["x"]) < 1e-9 and abs(bar["y"] - row["y"]) < 0.5 for bar in bars)
        of = [bar for bar, near in zip(bars, at_end, strict=True) if near and not row["series"]]
        for bar in of[:1]:
            bar |= {name: row[name] for name in row if name.endswith(("_low", "_high"))}
        free += [row] * (not of)
    return [*bars, *free]


def _cells(table: np.ma.MaskedArray, middle: float) -> Iterator[Row]:
    """Yield the cells of a table; a masked one has no value."""
    for (y, x), value in np.ndenumerate(table.filled(np.nan)):
        yield {"mark": "cell", "x": x + middle, "y": y + middle, "value": value}


def _rectangle(axis: Axes, patch: Rectangle) -> Row:
    """Return a span of an axis, or the frame around a cell."""
    (left, bottom), wide, tall = patch.get_xy(), patch.get_width(), patch.get_height()
    across, up = patch.get_transform().contains_branch_seperately(axis.transData)
    if across and up:
        return {"mark": "frame", "x": left + wide / 2, "y": bottom + tall / 2}
    return {"mark": "span"} | (
        {"x_low": left, "x_high": left + wide} if across else {"y_low": bottom, "y_high": bottom + tall}
    )


def _label(artist: Any) -> str:
    """Return the name in the legend; matplotlib's own names begin with an underscore."""
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label


def _axis_label(axis: Axes, side: str) -> str:
    """Return the label of an axis, or of a panel that shares it."""
    shared = getattr(axis, f"get_shared_{side}_axes")().get_siblings(axis)
    labels = [getattr(panel, f"get_{side}label")() for panel in (axis, *shared)]
    return next(filter(None, labels), "")


def _ticks(axis: Axis) -> Sequence[tuple[float, str]]:
    """Return the named places of an axis; none where its ticks are numbers."""
    if isinstance(axis.units, UnitData):  # words in place of numbers
        return [(float(at), name) for name, at in axis.units._mapping.items()]
    locator, words = axis.get_major_locator(), axis.get_major_formatter()
    if not (isinstance(locator, FixedLocator) and isinstance(words, FuncFormatter)):
        return ()
    return [(float(at), words(at)) for at in locator()]


def _nearest(place: Any, ticks: Sequence[tuple[float, str]]) -> str:
    """Return the name of the tick within half a step."""
    near = [(abs(place - at), name) for at, name in ticks] if place is not None else []
    return min(near)[1] if near and min(near)[0] <= 0.5 else ""


def _text(value: Any) -> str:
    """Return words as they are, on one line, and numbers to six digits; nothing for what is not there."""
    if isinstance(value, str):
        return " ".join(value.split())
    return "" if value is None or np.isnan(value) else f"{value:.6g}"
