"""Sphinx extension: every number of the book is read from the results of its build.

Role `{result}`, and a banner on every page while the results come from a profile that is not for citation.
Whatever is missing or misspelt is a Sphinx warning, so that a build with `-W` fails.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode

from husai import evidence

EXECUTED = "executed/"
CITABLE = ("paper", "full")

logger = logging.getLogger(__name__)


def results_of(env: BuildEnvironment, stem: str) -> dict[str, Any]:
    """Return the results of one notebook, or of the benchmarks ("speed"): the page being read depends on their file."""
    directory = Path(env.srcdir) / folder_of(stem)
    results = evidence.load(stem, directory)
    env.note_dependency(str(directory / f"{results['notebook']}.json"))
    return results


def folder_of(stem: str) -> str:
    """Return where results lie: what a build computed, or the benchmarks, which no build repeats."""
    return "results" if stem[:2].isdigit() else "reference"


def all_results(env: BuildEnvironment, directory: str = "results") -> dict[str, dict[str, Any]]:
    """Return every results file of the build, or of the reference run, by two-digit stem."""
    paths = sorted((Path(env.srcdir) / directory).glob("[0-9][0-9]_*.json"))
    found = {}
    for path in (path for path in paths if not path.stem.endswith(".provenance")):
        env.note_dependency(str(path))
        found[path.stem[:2]] = json.loads(path.read_text())
    return found


def addresses(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that `{result}` can name: `key`, `key.field`, `claims.ID.field`."""
    found = dict(results["values"])
    for key, value in results["values"].items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": entry for name, entry in value.items()}
    for claim, judged in results["claims"].items():
        found |= {f"claims.{claim}.{name}": entry for name, entry in judged.items()}
    return found


def near(key: str, known: Mapping[str, Any]) -> str:
    """Return the known keys that resemble a misspelt one, or all of them when none does."""
    return ", ".join(get_close_matches(key, known, n=5, cutoff=0.5) or sorted(known)[:20]) or "none"


def link(env: BuildEnvironment, docname: str, inner: nodes.Node, place: str = "") -> nodes.Node:
    """Wrap a node in a link to a page of the book, or to a place on it; not to nowhere, nor from a page to itself."""
    if docname == env.docname and place:
        return nodes.reference("", "", inner, refid=place, internal=True)
    if docname == env.docname or docname not in env.found_docs:
        return inner
    refers = {"refdomain": "", "reftype": "page", "reftarget": docname, "refdoc": env.docname}
    return pending_xref("", inner, **refers, place=place)


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.reference | None:
    """Make the links of `link`; Sphinx's own `doc` links would drop the content's class and explanation."""
    if node["reftype"] != "page":
        return None
    return make_refnode(app.builder, node["refdoc"], node["reftarget"], node["place"], content)


def download(env: BuildEnvironment, file: str, words: str) -> download_reference:
    """Return a link that saves a file, named from the book's folder; the finished site has a copy of it."""
    env.note_dependency(str(Path(env.srcdir) / file))
    return download_reference(
        "", "", nodes.inline(text=words), reftarget=file, filename=env.dlfiles.add_file(env.docname, file)
    )


class ResultRole(SphinxRole):
    """`{result}`NN:key`` becomes the text of a stored value, linked to the notebook that computed it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        stem, _, key = self.text.partition(":")
        try:
            results = results_of(self.env, stem)
        except ValueError as error:
            return self.missing(f"{{result}}`{self.text}`: {error}")
        known = addresses(results)
        if key not in known:
            file, names = f"{folder_of(stem)}/{results['notebook']}.json", known if "." in key else results["values"]
            return self.missing(f"{{result}}`{self.text}`: no value {key!r} in {file}; it has {near(key, names)}")
        text, value = evidence.format_value(known[key]), known[key]
        shown: nodes.Node = nodes.inline(text, text, classes=["result"])
        if isinstance(value, Mapping) and "method" in value:
            kind = "" if value["method"].startswith("median") else "95 % interval: "
            origin = f"{kind}{value['method']}, n = {value['n']} (from {results['notebook']})"
            shown = nodes.abbreviation(text, text, explanation=origin, classes=["result"])
        return [link(self.env, EXECUTED + results["notebook"], shown)], []

    def missing(self, message: str) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        logger.warning(message, location=self.get_location())
        return [nodes.strong(text=f"[missing: {self.text}]")], []


def banner(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Say on every page that the numbers are not for citation, unless all of them come from a citable profile."""
    paths = (Path(app.srcdir) / "results").glob("[0-9][0-9]_*.json")
    found = {json.loads(path.read_text())["profile"] for path in paths if not path.stem.endswith(".provenance")}
    for profile in sorted(found - set(CITABLE)):
        words = f"{profile} profile: numbers are not for citation"
        context["body"] = f'<p class="profile-banner" role="note">{words}</p>{context.get("body", "")}'


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("result", ResultRole())
    app.connect("missing-reference", resolve)
    app.connect("html-page-context", banner)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
