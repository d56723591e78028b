"""Sphinx extension: the role `{claim}`, which ties a sentence to the claim that carries it.

`{claim}`P10 refuted`` shows the claim's id, links to its row of the ledger and declares the verdict that the sentence
stands on; a paper or full run that says otherwise is a warning, so that a build with `-W` fails.
"""

from typing import Any

from docutils import nodes
from ledger import VERDICTS, claim_of, judgement
from results import CITABLE, ResultRole, results_of
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode


class ClaimRole(ResultRole):
    """`{claim}`ID verdict`` becomes the id, linked to the ledger, with the verdict of this build as its explanation."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        name, _, expected = self.text.partition(" ")
        role = f"{{claim}}`{self.text}`"
        try:
            claim = claim_of(self.env, name)
            if expected not in VERDICTS:
                raise ValueError(f"the verdict that the sentence stands on is wanted, one of {', '.join(VERDICTS)}")
            results = results_of(self.env, claim.notebook)
        except ValueError as error:
            return self.missing(f"{role}: {error}")
        judged = judgement(claim, {claim.notebook: results})
        if results["profile"] in CITABLE and judged["verdict"] != expected:
            found = f"the run says {judged['verdict']} ({judged['reason']})"
            self.missing(f"{role}: the sentence stands on {expected}, {found}")
        words = f"{claim.statement} {judged['verdict']}: {judged['reason'] or 'no run has judged it'}"
        shown = nodes.abbreviation(name, name, explanation=words, classes=["carried", f"verdict-{expected}"])
        row = nodes.make_id(f"claim-{name}")
        return [make_refnode(self.env.app.builder, self.env.docname, "claims", row, shown)], []


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("claim", ClaimRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
