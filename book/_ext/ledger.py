"""Sphinx extension: the ledger of claims, each with the judgement of this build, or of the reference run.

Directives `{claims}`, `{scoreboard}` and `{verdict}`. Words that a verdict no longer bears out are a Sphinx warning, so
that a build with `-W` fails.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from results import CITABLE, EXECUTED, all_results, link, logger, near, results_of
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from husai import evidence

REPRODUCED = ("yes", "no", "not run")
VERDICTS = ("supported", "refuted", "inconclusive", "not run")
UNJUDGED = {"reproduced": "not run", "verdict": "not run", "reason": "", "criterion": ""}
COLUMNS = ("Id", "Quantity", "Reported", "Source", "Notebook", "Tier", "Reproduced", "Verdict")
TIERS = ("measured here", "reference run", "smoke scale", "source only")
"""Where a judgement comes from: this build; the committed results of the reference run; a build that is not for
citation; nowhere, the source's own word being all there is."""


def ledger_of(env: BuildEnvironment) -> dict[str, evidence.Claim]:
    """Return the claims ledger and make it a dependency of the page being read."""
    path = Path(env.srcdir) / "claims.toml"
    env.note_dependency(str(path))
    return evidence.load_claims(path)


def claim_of(env: BuildEnvironment, name: str) -> evidence.Claim:
    """Return a claim of the ledger; ValueError names those that resemble one that it does not have."""
    ledger = ledger_of(env)
    if name not in ledger:
        raise ValueError(f"no such claim in claims.toml; it has {near(name, ledger)}")
    return ledger[name]


def judgement(claim: evidence.Claim, results: Mapping[str, Mapping[str, Any]]) -> Mapping[str, str]:
    """Return what the build says about a claim; `not run` twice when no run has judged it."""
    return results.get(claim.notebook, {}).get("claims", {}).get(claim.id, UNJUDGED)


def tier(claim: evidence.Claim, results: Mapping[str, Mapping[str, Any]], reference: Mapping[str, Any]) -> str:
    """Return the evidence tier of a claim, one of `TIERS`.

    A reference run that was judged by another criterion than the ledger's, or is not for citation, counts as nothing;
    a warning says so.
    """
    if claim.id in results.get(claim.notebook, {}).get("claims", {}):
        return TIERS[0] if results[claim.notebook]["profile"] in CITABLE else TIERS[2]
    run = reference.get(claim.notebook, {})
    judged = run.get("claims", {}).get(claim.id)
    if judged is None:
        return TIERS[3]
    trouble = {
        f"its criterion changed after the reference run; run notebook {claim.notebook} again":
            judged["criterion"] != claim.criterion,
        f"its reference run is of the {run['profile']} profile, which is not for citation":
            run["profile"] not in CITABLE,
    }  # fmt: skip
    for reason in (reason for reason, holds in trouble.items() if holds):
        logger.warning(f"claim {claim.id}: {reason}")
        return TIERS[3]
    return TIERS[1]


def label(word: str) -> nodes.inline:
    """Return a verdict as a coloured label that is read by its text."""
    return nodes.inline(word, word, classes=["verdict-label", f"verdict-{word.replace(' ', '-')}"])


class Ledger(SphinxDirective):
    """Base of the directives over the ledger: `:notebook: 22` or `:part: 2` select claims."""

    option_spec = {"notebook": directives.unchanged_required, "part": directives.unchanged_required}

    def claims(self) -> Iterator[tuple[evidence.Claim, Mapping[str, str]]]:
        """Yield the selected claims by notebook, each with its judgement and its tier.

        Where this build has not judged a claim, the reference run's judgement stands, and the tier says so.
        """
        prefix = self.options.get("notebook", self.options.get("part", ""))
        results, reference = all_results(self.env), all_results(self.env, "reference")
        for claim in sorted(ledger_of(self.env).values(), key=lambda claim: claim.notebook):
            if claim.notebook.startswith(prefix):
                found = tier(claim, results, reference)
                run = {TIERS[1]: reference, TIERS[3]: {}}.get(found, results)
                yield claim, {**judgement(claim, run), "tier": found}


class ClaimsDirective(Ledger):
    """The ledger as a table, one claim a row."""

    def run(self) -> list[nodes.Node]:
        body = nodes.tbody()
        for claim, judged in self.claims():
            body += self.row(claim, judged)
            if judged["reason"]:
                reason = nodes.paragraph(text=f"{claim.id}: {judged['reason']}")
                body += nodes.row("", nodes.entry("", reason, morecols=len(COLUMNS) - 1), classes=["reason"])
        head = nodes.thead("", row([nodes.Text(title) for title in COLUMNS]))
        group = nodes.tgroup("", *[nodes.colspec(colwidth=1) for _ in COLUMNS], head, body, cols=len(COLUMNS))
        table = nodes.table("", group, classes=["ledger", "colwidths-auto"])
        return [nodes.container("", table, classes=["full-width"])]

    def row(self, claim: evidence.Claim, judged: Mapping[str, str]) -> nodes.row:
        """Return the row of one claim."""
        names = [name for name in sorted(self.env.found_docs) if name.startswith(f"{EXECUTED}{claim.notebook}_")]
        quantity = nodes.inline(claim.quantity, claim.quantity)
        if claim.configuration:
            quantity = nodes.inline("", "", quantity, nodes.inline(text=claim.configuration, classes=["aside"]))
        notebook = nodes.inline(claim.notebook, claim.notebook)
        cells = [
            nodes.strong(text=claim.id, ids=[nodes.make_id(f"claim-{claim.id}")]), quantity, nodes.Text(claim.reported),
            nodes.Text(claim.source), link(self.env, names[0], notebook) if names else notebook,
            nodes.inline(text=judged["tier"], classes=["tier"]), label(judged["reproduced"]), label(judged["verdict"]),
        ]  # fmt: skip
        return row(cells)


def row(cells: list[nodes.Node]) -> nodes.row:
    """Return a table row of one-paragraph cells."""
    return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells])


class ScoreboardDirective(Ledger):
    """How many claims were reproduced and how their verdicts fell."""

    def run(self) -> list[nodes.Node]:
        judged = [found for _, found in self.claims()]
        board = nodes.bullet_list(classes=["scoreboard"])
        for field, words in (("reproduced", REPRODUCED), ("verdict", VERDICTS)):
            counts = Counter(found[field] for found in judged)
            line = nodes.paragraph("", "", nodes.inline(text=field.capitalize(), classes=["scoreboard-field"]))
            for word in words:
                number = nodes.strong(text=evidence.format_value(counts[word]))
                line += [nodes.Text(" "), nodes.inline("", "", number, nodes.Text(" "), label(word), classes=["score"])]
            board += nodes.list_item("", line)
        return [board]


class VerdictDirective(SphinxDirective):
    """One claim with its judgement, bound to the words around it.

    `:expect:` and `:reproduced:` declare what the prose says; a paper or full run that says otherwise, or that
    was judged by another criterion than the ledger's present one, is a warning.
    """

    required_arguments = 1
    has_content = True
    option_spec = {
        "expect": lambda word: directives.choice(word, VERDICTS),
        "reproduced": lambda word: directives.choice(word, REPRODUCED),
    }

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        try:
            claim = claim_of(self.env, name)
            results = results_of(self.env, claim.notebook)
        except ValueError as error:
            return self.complain(f"{{verdict}} {name}: {error}")
        judged = judgement(claim, {claim.notebook: results})
        if results["profile"] in CITABLE:
            self.check(claim, judged)
        return [self.box(claim, judged, EXECUTED + results["notebook"])]

    def check(self, claim: evidence.Claim, judged: Mapping[str, str]) -> None:
        """Warn when the words around the block no longer hold."""
        for option, field in (("expect", "verdict"), ("reproduced", "reproduced")):
            expected = self.options.get(option, judged[field])
            if expected != judged[field]:
                found = f"the text expects {field} = {expected}, the run says {judged[field]}"
                self.complain(f"{{verdict}} {claim.id}: {found} ({judged['reason'] or 'no reason given'})")
        if judged["criterion"] not in ("", claim.criterion):
            again = f"run notebook {claim.notebook} again"
            self.complain(f"{{verdict}} {claim.id}: its criterion changed after the run; {again}")

    def box(self, claim: evidence.Claim, judged: Mapping[str, str], docname: str) -> nodes.Element:
        title = nodes.title("", "", link(self.env, docname, nodes.inline(text=f"Claim {claim.id}")))
        for name, field in (("verdict", "verdict"), ("reproduced", "reproduced")):
            title += [nodes.Text(f" · {name} "), label(judged[field])]
        statement = nodes.paragraph("", "", nodes.strong(text=claim.statement or claim.quantity))
        settings = ", ".join(part for part in (claim.configuration, claim.source) if part)
        published = nodes.paragraph(text=f"Published: {claim.reported} ({settings}).")
        reason = nodes.paragraph(text=f"Judged: {judged['reason'] or 'no run has judged this claim yet'}.")
        colour = f"verdict-{judged['verdict'].replace(' ', '-')}"
        words = nodes.container(classes=["verdict-words"])
        self.state.nested_parse(self.content, self.content_offset, words)
        return nodes.admonition("", title, statement, words, published, reason, classes=["verdict", colour])

    def complain(self, message: str) -> list[nodes.Node]:
        logger.warning(message, location=self.get_location())
        return [nodes.paragraph("", "", nodes.strong(text=f"[{message}]"))]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims", ClaimsDirective)
    app.add_directive("scoreboard", ScoreboardDirective)
    app.add_directive("verdict", VerdictDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
