"""Corpora: what is a document, what is dropped, what the digest sees."""

from pathlib import Path

import pytest

from husai.text import corpus

LONG = "A sentence that is long enough to be a document of its own. " * 5


def test_equal_documents_are_dropped_and_counted_and_the_first_label_stays() -> None:
    found = corpus.of("made up", ["a", "b", "a"], ["x", "y", "z"])
    assert (found.documents, found.labels, found.duplicates) == (("a", "b"), ("x", "y"), 1)


def test_the_digest_sees_texts_labels_and_order() -> None:
    digests = {
        corpus.of("c", texts, labels).digest
        for texts, labels in [(["a", "b"], "xy"), (["b", "a"], "xy"), (["a", "b"], "xx"), (["a b"], "x")]
    }
    assert len(digests) == 4
    assert corpus.of("other name", ["a", "b"], "xy").digest in digests


def test_docstrings_of_modules_classes_and_functions_are_found_and_strings_are_not() -> None:
    parts = '"""M {0}"""\nx = """S {0}"""\nclass A:\n    """C {0}"""\n    def f(self):\n        """F {0}"""\n'
    source = parts.format(LONG)
    assert [text[0] for text in corpus.docstrings(source + 'def g():\n    """short"""\n')] == ["M", "C", "F"]


def test_the_reference_reads_what_is_installed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = corpus.reference(("numpy",))
    assert set(found.labels) == {"topics", "numpy"} and found.labels.count("topics") > 50
    assert len(found.documents) > 500 and min(map(len, found.documents[100:])) >= corpus.SHORTEST
    assert any("assignment" in text for text in found.documents)
    monkeypatch.setattr(corpus, "_installed", None)  # the second call reads the artifact
    assert corpus.reference(("numpy",)) == found


def test_lines_keeps_the_long_ones(tmp_path: Path) -> None:
    path = tmp_path / "wiki.train.raw"
    path.write_text(f" = Title = \n{LONG}\n\n{LONG}\nB{LONG}\n")
    found = corpus.lines(path)
    assert found.documents == (LONG.strip(), f"B{LONG.strip()}") and found.duplicates == 1


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="documents is 'none'"):
        corpus.of("c", [], [])
    with pytest.raises(ValueError, match="labels is '1 of them'; wanted one for each of 2"):
        corpus.of("c", ["a", "b"], ["x"])
    with pytest.raises(ValueError, match="an empty text at 1"):
        corpus.of("c", ["a", " "], ["x", "x"])
    with pytest.raises(ValueError, match="packages is 'tensorflow'; wanted some of numpy"):
        corpus.reference(("tensorflow",))
    with pytest.raises(ValueError, match="path is 'wiki.txt'; wanted a text file; of wikitext-103-raw-v1 download"):
        corpus.lines(tmp_path / "wiki.txt")
    (tmp_path / "short.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="lines of more than 100 characters"):
        corpus.lines(tmp_path / "short.txt")
