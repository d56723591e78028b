"""The progress bar: what passes through is unchanged, and the bar says how far it is and how long it will take."""

import pytest

from husai import progress


def test_pieces_pass_through_unchanged_and_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.watched(iter("abc"), [1, 2, 3], "step")) == ["a", "b", "c"]
    assert capsys.readouterr().err.strip() == "", "work that is done at once shows no bar"


def test_the_bar_shows_share_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    pieces = progress.watched(range(4), [10, 10, 10, 30], "SAE-step")
    for _ in range(3):
        next(pieces)
    pieces.close()
    shown = capsys.readouterr().err
    assert "20.0/60.0" in shown or "30.0/60.0" in shown
    assert "SAE-step/s" in shown and "<" in shown


def test_each_item_moves_the_bar_when_it_is_done_with(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    assert list(progress.each([3, 1, 2], "model")) == [3, 1, 2]
    assert capsys.readouterr().err.strip() == ""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    items = progress.each("abcd", "model")
    for _ in range(3):
        next(items)
    items.close()
    shown = capsys.readouterr().err
    assert "2/4" in shown and "model" in shown and "<" in shown, "the third is not done with"


def test_sizes_that_do_not_fit_the_work_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(progress.watched(range(3), [1, 1], "step"))
