"""Sphinx extension: a figure of results of several notebooks, drawn while the book is built.

    ```{forest} beyond covariance-matched draws
    :name: 50_survival
    :zero: 0
    :alt: What a reader who cannot see it should know.

    # Features
    one to one | 22:gap_N2_clean_narrow

    The caption.
    ```

Every row names a stored estimate, so the figure cannot hold a number that the build did not compute.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from results import logger, near, results_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from husai import plots
from husai.evidence import Estimate


class ForestDirective(SphinxDirective):
    """Groups of `label | NN:key` rows under `# titles`, then a caption; the argument is the label of the x axis."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = {
        "name": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "zero": float,
        "margin": float,
    }

    def run(self) -> list[nodes.Node]:
        rows = [line for line in self.content if line.startswith("#") or "|" in line]
        groups: dict[str, dict[str, Estimate]] = {}
        for line in rows:
            if line.startswith("#"):
                title = line.lstrip("# ")
                groups[title] = {}
                continue
            label, _, address = (part.strip() for part in line.partition("|"))
            value = self.value(address)
            if value is not None:
                groups[title][label] = value
        if not rows or not all(groups.values()):
            return []
        figure = plots.forest(groups, self.arguments[0], self.options.get("zero"), self.options.get("margin"))
        plots.save(figure, self.options["name"], Path(self.env.srcdir) / "figures")
        words, holder = self.content[list(self.content).index(rows[-1]) + 1 :], nodes.Element()
        self.state.nested_parse(words, self.content_offset, holder)
        caption = nodes.caption("", "", *[part for paragraph in holder.children for part in paragraph.children])
        image = nodes.image(uri=f"/figures/{self.options['name']}.svg", alt=self.options.get("alt", ""))
        return [nodes.figure("", image, caption)]

    def value(self, address: str) -> Estimate | None:
        """Return a stored estimate; a missing one is a warning, as for `{result}`."""
        stem, _, key = address.partition(":")
        try:
            found = results_of(self.env, stem)["values"]
        except ValueError as error:
            logger.warning(f"{{forest}} {address}: {error}", location=self.get_location())
            return None
        if not isinstance(found.get(key), dict) or "low" not in found[key]:
            message = f"{{forest}} {address}: no estimate of that name; it has {near(key, found)}"
            logger.warning(message, location=self.get_location())
            return None
        return Estimate(**found[key])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("forest", ForestDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
