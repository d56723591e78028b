"""Sphinx extension: what changed since the reference run, compared by `workflow/drift.py`, as `make audit` compares.

    ```{changes} summary
    ```

The argument names a part of the page: `summary` or one of `PARTS`. Runs of different profiles are never compared.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import drift
from docutils import nodes
from ledger import label, row
from results import EXECUTED, all_results, link
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from husai.evidence import format_value

REFERENCE = "reference"
LONGEST = 160
"""Characters of a value that is shown: some are lists."""


@dataclass(frozen=True)
class Pair:
    """A notebook in both runs; None where a run does not have it."""

    stem: str
    was: Mapping[str, Any] | None
    now: Mapping[str, Any] | None
    provenances: tuple[Mapping[str, Any], Mapping[str, Any]]

    @property
    def apart(self) -> str:
        """Why the two are not compared; empty if they are."""
        if self.was is None or self.now is None:
            return "not in the reference run" if self.was is None else "not run in this build"
        then, here = self.was["profile"], self.now["profile"]
        return "" if then == here else f"other scale: {here} here, {then} in the reference run"

    @property
    def changes(self) -> list[drift.Change]:
        """Every value of either run."""
        return [] if self.was is None or self.now is None else drift.changes(self.was, self.now)

    @property
    def turned(self) -> list[tuple[str, str, str, str]]:
        """Every judgement that is not the same."""
        return [] if self.was is None or self.now is None else list(drift.turned(self.was, self.now))

    @property
    def inputs(self) -> int:
        """How many trained artifacts, corpora or other inputs are not the same."""
        return len(drift.inputs(*self.provenances))

    @property
    def again(self) -> bool:
        """Whether this is another run, and not the reference run's own results."""
        then, here = (provenance.get("finished") for provenance in self.provenances)
        return then != here

    @property
    def parameters(self) -> bool:
        """Whether the parameters of record are not the same."""
        then, here = (provenance.get("config_hash") for provenance in self.provenances)
        return then != here


def pairs(env: BuildEnvironment) -> list[Pair]:
    """Return every notebook of either run."""
    was, now = all_results(env, REFERENCE), all_results(env)
    found = []
    for number in sorted(was.keys() | now.keys()):
        stem = (now.get(number) or was[number])["notebook"]
        both = provenance(env, REFERENCE, stem), provenance(env, "results", stem)
        found.append(Pair(stem, was.get(number), now.get(number), both))
    return found


def provenance(env: BuildEnvironment, directory: str, stem: str) -> dict[str, Any]:
    """Return what made a results file; nothing where that was not kept."""
    path = Path(env.srcdir) / directory / f"{stem}.provenance.json"
    env.note_dependency(str(path))
    return json.loads(path.read_text()) if path.exists() else {}


class ChangesDirective(SphinxDirective):
    """One part of the comparison."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        part, every = self.arguments[0], pairs(self.env)
        compared = [pair for pair in every if not pair.apart]
        if part == "summary":
            return [nodes.paragraph(text=text) for text in summary(every, compared) if text]
        if part not in PARTS:
            raise self.error(f"{{changes}} {part}: no such part; wanted summary or one of {', '.join(PARTS)}")
        return PARTS[part](self.env, compared) if compared else [nodes.paragraph(text="Not compared.")]


def count(number: int, one: str) -> str:
    """Return a number with its noun."""
    return f"{format_value(number)} {one}{'s' * (number != 1)}"


def summary(every: list[Pair], compared: list[Pair]) -> list[str]:
    """Return the sentences that a hurried reader needs."""
    why = Counter(pair.apart for pair in every if pair.apart)
    apart = [f"{count(number, 'notebook')} ({reason})" for reason, number in sorted(why.items())]
    missing = f"Not compared: {'; '.join(apart)}." if apart else ""
    if not compared:
        scale = "Results of another scale are never compared with the reference run. " if apart else ""
        return [f"{scale}{missing or 'There is nothing to compare.'}"]
    kinds = Counter(change.kind for pair in compared for change in pair.changes)
    turned = sum(len(pair.turned) for pair in compared)
    notebooks, total = count(len(compared), "notebook"), sum(kinds.values())
    if kinds["identical"] == total and not turned:
        first = f"Nothing changed: {count(total, 'value')} of {notebooks} are those of the reference run to the byte,"
        return [f"{first} and so is every judgement.", origin(compared), missing]
    both = count(total - kinds["gone"] - kinds["new"], "value")
    identical, within, drifted, gone = (format_value(kinds[kind]) for kind in drift.KINDS[:4])
    sentences = [
        f"Of {both} that both runs have, in {notebooks}, {identical} are the same to the byte,"
        f" {within} moved by no more than is called drift, and {drifted} drifted.",
        f"{count(turned, 'judgement')} turned; {count(kinds['new'], 'value')} came and {gone} went.",
    ]
    other = [pair.stem[:2] for pair in compared if pair.parameters]
    reason = f"Their parameters of record are not those of the reference run: {', '.join(other)}." if other else ""
    return [" ".join(sentences), reason, origin(compared), missing]


def origin(compared: list[Pair]) -> str:
    """Return how many notebooks ran since the reference run, and at which commit; the others are that run."""
    later = [pair for pair in compared if pair.again]
    commits = sorted({str(pair.provenances[1].get("commit") or "not recorded")[:10] for pair in later})
    where = f", at commit {commits[0]}" if len(commits) == 1 else f", at {len(commits)} commits" if commits else ""
    rest = len(compared) - len(later)
    kept = f"; the results of {count(rest, 'notebook')} are the reference run's own" if rest else ""
    return f"{count(len(later), 'notebook')} ran again since the reference run{where}{kept}."


def notebooks(env: BuildEnvironment, compared: list[Pair]) -> list[nodes.Node]:
    """Return one row a notebook."""
    columns = ["Identical", "Within", "Drifted", "New", "Gone", "Judgements turned", "Inputs changed"]
    body = []
    for pair in compared:
        kinds = Counter(change.kind for change in pair.changes)
        numbers = [sum(kinds.values()), *(kinds[kind] for kind in ("identical", "within", "drifted", "new", "gone"))]
        cells = [nodes.Text(format_value(number)) for number in (*numbers, len(pair.turned), pair.inputs)]
        body.append([link(env, EXECUTED + pair.stem, nodes.inline(text=pair.stem)), *cells])
    return table(["Notebook", "Values", *columns], body)


def judgements(env: BuildEnvironment, compared: list[Pair]) -> list[nodes.Node]:
    """Return every verdict, and every answer to whether a number came back, that turned."""
    body = [
        [nodes.Text(pair.stem[:2]), nodes.strong(text=claim), nodes.Text(field), label(was), label(now)]
        for pair in compared
        for claim, field, was, now in pair.turned
    ]
    return table(["Notebook", "Claim", "What", "Reference run", "This build"], body)


def moved(*kinds: str) -> Callable[[BuildEnvironment, list[Pair]], list[nodes.Node]]:
    """Return the part that lists the values of these kinds with what they were and are."""

    def part(env: BuildEnvironment, compared: list[Pair]) -> list[nodes.Node]:
        found = [(pair.stem[:2], change) for pair in compared for change in pair.changes if change.kind in kinds]
        body = [
            [nodes.Text(number), nodes.literal(text=change.key), *map(text, (change.was, change.now)), beside(change)]
            for number, change in found
        ]
        return table(["Notebook", "Value", "Reference run", "This build", "Intervals"], body)

    return part


def text(value: Any) -> nodes.Text:
    """Return a value as it is shown."""
    return nodes.Text("none" if value is drift.ABSENT else shorten(format_value(value), LONGEST, placeholder=" ..."))


def beside(change: drift.Change) -> nodes.Text:
    """Return how the two intervals lie, and which of n and method are not the same."""
    words = {None: "none", True: "overlap", False: "apart"}[change.overlap]
    return nodes.Text("; ".join([words, *(f"another {field}" for field in change.refitted)]))


def table(head: list[str], body: list[list[nodes.Node]]) -> list[nodes.Node]:
    """Return a table, or that there is nothing to show."""
    if not body:
        return [nodes.paragraph(text="None.")]
    rows = nodes.thead("", row([nodes.Text(title) for title in head])), nodes.tbody("", *map(row, body))
    group = nodes.tgroup("", *[nodes.colspec(colwidth=1) for _ in head], *rows, cols=len(head))
    return [nodes.container("", nodes.table("", group, classes=["colwidths-auto"]), classes=["full-width"])]


PARTS = {
    "notebooks": notebooks,
    "judgements": judgements,
    "drifted": moved("drifted"),
    "within": moved("within"),
    "listed": moved("gone", "new"),
}


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("changes", ChangesDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
