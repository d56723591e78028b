"""Contrastive stories: what the two sides of a pair share, and what is read of the published dataset."""

import json
from pathlib import Path

import pytest

from husai.text.stories import FRAMES, SUBJECTS, published, templates

RECORDS = [
    {"subject": "noise", "story0": "x", "story1": "It was <noise>loud</noise>. Very loud!", "story2": "A hush. Quiet."},
    {"subject": "light", "story0": "x", "story1": "So bright. It hurt?", "story2": "Dark. Darker."},
]


def test_the_sides_of_a_pair_differ_in_the_words_of_the_subject_alone() -> None:
    for pair in templates(30, 0, sentences=6):
        high, low = (words.split() for words in SUBJECTS[pair.subject])
        assert len(pair.high) == len(pair.low) == len(set(pair.frames)) == 6
        for one, other, number in zip(*pair[1:], strict=True):
            frame = FRAMES[number]
            assert one in {frame.format(word) for word in high}
            assert other in {frame.format(word) for word in low}


def test_stories_are_seeded_and_every_subject_comes_before_one_comes_again() -> None:
    assert templates(5, 3) == templates(5, 3) != templates(5, 4)
    assert {pair.subject for pair in templates(len(SUBJECTS), 1)} == {*SUBJECTS}


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_the_published_columns_are_read_from_a_folder(kind: str, tmp_path: Path) -> None:
    if kind == "csv":
        import pandas as pd

        pd.DataFrame(RECORDS).to_csv(tmp_path / "train.csv")
    else:
        text = json.dumps(RECORDS) if kind == "json" else "\n".join(json.dumps(record) for record in RECORDS)
        (tmp_path / f"train.{kind}").write_text(text)
    first, second = published(str(tmp_path))
    assert first == ("noise", ("It was loud.", "Very loud!"), ("A hush.", "Quiet."), ())
    assert second.low == ("Dark.", "Darker.")
    assert len(published(str(tmp_path), rows=1)) == 1


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files of the kinds"):
        published(str(tmp_path))
    (tmp_path / "train.jsonl").write_text(json.dumps({"subject": "x", "story1": "One."}))
    with pytest.raises(ValueError, match="story2"):
        published(str(tmp_path))
    (tmp_path / "train.jsonl").write_text(json.dumps({"subject": "x", "story1": "One.", "story2": "One. Two."}))
    with pytest.raises(ValueError, match="at least two sentences"):
        published(str(tmp_path))
    with pytest.raises(ValueError, match="sentences"):
        templates(1, 0, sentences=1)


def test_a_dataset_that_cannot_be_reached_says_where_its_files_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="--local-dir FOLDER"):
        published("GulkoA/no-such-stories-here")
