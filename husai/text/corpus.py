"""Corpora of short documents: a reference corpus that needs no download, and files of a reader's own."""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from husai import artifacts
from husai.config import require
from husai.evidence import write_json

SHORTEST = 200
"""Characters below which a docstring or a line is no document (lines of a file: the sources' 100, see `lines`)."""
TOPICS = "topics"
"""Label of the language reference that Python's help() prints."""
PACKAGES = {
    "numpy": ("numpy", ("lib", "ma", "linalg", "polynomial", "random", "_core")),
    "scipy": ("scipy", ("stats", "signal", "optimize", "special")),
    "torch": ("torch", ("nn", "optim", "distributions", "autograd")),
    "matplotlib": ("matplotlib", ("axes", "projections", "backends")),
    "pandas": ("pandas", ("core",)),
    "sklearn": ("scikit-learn", ("",)),
}
"""Label (the importable name): its distribution, whose version is pinned, and the folders that are read."""


class Corpus(NamedTuple):
    """Documents, where each comes from, and the digest of them all."""

    name: str
    """What the corpus is called."""
    documents: tuple[str, ...]
    """The texts, in a fixed order, no two alike."""
    labels: tuple[str, ...]
    """One a document: "topics", or the package that a docstring is from."""
    digest: str
    """SHA-256 of labels and documents."""
    duplicates: int = 0
    """Documents that were dropped because another has the same text."""


def of(name: str, documents: Sequence[str], labels: Sequence[str]) -> Corpus:
    """Return a corpus of these texts; of equal ones the first is kept.

    ValueError: no documents, an empty document, or another number of labels.
    """
    require(len(documents) > 0, "documents", "none", "at least one text")
    same = len(labels) == len(documents)
    require(same, "labels", f"{len(labels)} of them", f"one for each of {len(documents)} texts")
    empty = next((i for i, text in enumerate(documents) if not text.strip()), None)
    require(empty is None, "documents", f"an empty text at {empty}", "texts with something in them")
    first: dict[str, str] = {}
    for text, label in zip(documents, labels, strict=True):
        first.setdefault(text, label)
    content = json.dumps([*first.items()], ensure_ascii=False).encode()
    digest = hashlib.sha256(content).hexdigest()
    return Corpus(name, tuple(first), tuple(first.values()), digest, len(documents) - len(first))


def reference(packages: Sequence[str] = tuple(PACKAGES)) -> Corpus:
    """Return Python's help topics and the docstrings of scientific packages: real technical English, already installed.

    A document is a help topic, or the docstring of a module, class or function of at least `SHORTEST` characters in a
    package's source (nothing is imported, tests are left out). The texts are those of the pinned versions; other
    versions give another digest. Kept as an artifact. ValueError: a package that is not one of `PACKAGES`, or that is
    not installed.
    """
    for name in packages:
        require(name in PACKAGES, "packages", name, f"some of {', '.join(PACKAGES)}")
        require(importlib.util.find_spec(name) is not None, "packages", name, "installed packages (requirements.lock)")
    versions = {name: version(PACKAGES[name][0]) for name in packages}

    def build(folder: Path) -> None:
        texts, labels = zip(*_installed(packages), strict=True)
        write_json(folder / "documents.json", {"documents": texts, "labels": labels})

    config = {"versions": versions, "shortest": SHORTEST}
    folder = artifacts.stored("corpora", config, build, modules=("text.corpus",))
    found = json.loads((folder / "documents.json").read_text())
    return of("documentation of " + ", ".join(("Python", *packages)), found["documents"], found["labels"])


def lines(path: Path, shortest: int = 100) -> Corpus:
    """Return the lines of a text file with more than `shortest` characters, one document each, as the sources did.

    The sources' file is the train split of wikitext-103-raw-v1. ValueError: no such file (with what to put there), or
    no line that is long enough.
    """
    wanted = "a text file; of wikitext-103-raw-v1 download wiki.train.raw, or write its train split as lines"
    require(path.is_file(), "path", path.name, wanted)
    with path.open(encoding="utf8") as file:
        texts = [line.strip() for line in file if len(line.strip()) > shortest]
    require(bool(texts), "path", path.name, f"a file with lines of more than {shortest} characters")
    return of(path.stem, texts, [path.stem] * len(texts))


def _installed(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (text, label) of all documents, topics by name and files by path."""
    from pydoc_data.topics import topics

    for _, text in sorted(topics.items()):
        yield text.strip(), TOPICS
    for name in packages:
        origin = importlib.util.find_spec(name).origin  # type: ignore[union-attr]
        for part in PACKAGES[name][1]:
            for path in sorted((Path(str(origin)).parent / part).rglob("*.py")):
                if not {"tests", "testing"} & set(path.parts):
                    yield from ((text, name) for text in docstrings(path.read_text(encoding="utf8")))


def docstrings(source: str) -> list[str]:
    """Return the docstrings of at least `SHORTEST` characters of a module and of all classes and functions in it."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [text for text in found if text and len(text) >= SHORTEST]
