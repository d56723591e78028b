"""Sphinx extension: the role `{claim}`, which ties a sentence to the claim that carries it.

`{claim}`P10 refuted`` shows the claim's id, links to its row of the ledger and declares the verdict that the sentence
stands on; a paper or full run that says otherwise is a warning, so that a build with `-W` fails.
"""

from typing import Any

from docutils import nodes
from results import CITABLE, VERDICTS, judgement, ledger_of, near, results_of
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode

logger = logging.getLogger(__name__)


class ClaimRole(SphinxRole):
    """`{claim}`ID verdict`` becomes the id, linked to the ledger, with the verdict of this build as its explanation."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        name, _, expected = self.text.partition(" ")
        ledger = ledger_of(self.env)
        if name not in ledger:
            return self.complain(f"no such claim in claims.toml; it has {near(name, ledger)}")
        if expected not in VERDICTS:
            return self.complain(f"the verdict that the sentence stands on is wanted, one of {', '.join(VERDICTS)}")
        claim = ledger[name]
        try:
            results = results_of(self.env, claim.notebook)
        except ValueError as error:
            return self.complain(str(error))
        judged = judgement(claim, {claim.notebook: results})
        if results["profile"] in CITABLE and judged["verdict"] != expected:
            self.complain(f"the sentence stands on {expected}, the run says {judged['verdict']} ({judged['reason']})")
        words = f"{claim.statement} {judged['verdict']}: {judged['reason'] or 'no run has judged it'}"
        shown = nodes.abbreviation(name, name, explanation=words, classes=["carried", f"verdict-{expected}"])
        row = f"claim-{nodes.make_id(name)}"
        builder = self.env.app.builder
        return [make_refnode(builder, self.env.docname, "claims", nodes.make_id(row), shown)], []

    def complain(self, message: str) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        logger.warning(f"{{claim}}`{self.text}`: {message}", location=self.get_location())
        return [nodes.strong(text=f"[missing: {self.text}]")], []


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("claim", ClaimRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
