"""Sphinx extension: buttons that open a page's notebook on Binder and on Colab.

They are links and ask nothing of the network until somebody follows one. The repository's address is `repository-code`
in CITATION.cff or, while GitHub builds a repository that does not say, that repository; where neither is known there
are no buttons. The theme's own buttons would point at the executed copies, which no repository holds.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from docutils import nodes
from results import EXECUTED
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
BRANCH = "main"
BINDER, COLAB, GITHUB = "https://mybinder.org/v2", "https://colab.research.google.com/github", "https://github.com/"
# Colab chooses its own Python; the library is imported from the copy of the repository, which holds the ledger.
FIRST_CELL = """!git clone -q {repository} husai
%cd husai
!pip install -q --ignore-requires-python -e ."""


def repository(root: Path = ROOT) -> str:
    """Return the address of the repository, empty where it is not known."""
    stated = yaml.safe_load((root / "CITATION.cff").read_text()).get("repository-code", "")
    server, name = (os.environ.get(f"GITHUB_{what}", "") for what in ("SERVER_URL", "REPOSITORY"))
    found = stated or (f"{server}/{name}" if server and name else "")
    return found.rstrip("/").removesuffix(".git")


def source(pagename: str, root: Path = ROOT) -> str:
    """Return the notebook of the repository that a page is the executed copy of, empty for any other page."""
    path = f"notebooks/{pagename.removeprefix(EXECUTED)}.ipynb"
    return path if pagename.startswith(EXECUTED) and (root / path).exists() else ""


def links(address: str, notebook: str) -> dict[str, str]:
    """Return where a notebook of a repository opens, by service; Colab reads GitHub only."""
    if not address.startswith(GITHUB):
        return {"Binder": f"{BINDER}/git/{quote(address, safe='')}/{BRANCH}?urlpath=lab/tree/{notebook}"}
    name = address.removeprefix(GITHUB)
    return {
        "Binder": f"{BINDER}/gh/{name}/{BRANCH}?urlpath=lab/tree/{notebook}",
        "Colab": f"{COLAB}/{name}/blob/{BRANCH}/{notebook}",
    }


def buttons(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the links of a page before its other buttons."""
    address, notebook = repository(), source(pagename)
    if not address or not notebook or "header_buttons" not in context:
        return
    icons = {"Binder": "_static/images/logo_binder.svg", "Colab": "_static/images/logo_colab.png"}
    opened = [
        {"type": "link", "text": name, "tooltip": f"Open this notebook on {name}", "icon": icons[name], "url": url}
        for name, url in links(address, notebook).items()
    ]
    group = {"type": "group", "tooltip": "Run this notebook", "icon": "fas fa-rocket", "label": "launch-buttons"}
    context["header_buttons"].insert(0, group | {"buttons": opened})


class LaunchDirective(SphinxDirective):
    """How to run a notebook without installing anything, or why this copy of the book has no button for it."""

    def run(self) -> list[nodes.Node]:
        address = repository()
        if not address:
            words = "This copy of the book does not know the address of its repository: its pages have no button for"
            return [nodes.paragraph(text=f"{words} Binder or Colab.")]
        words = "The rocket at the top of a notebook's page opens that notebook, at its smallest scale, on Binder"
        if not address.startswith(GITHUB):
            return [nodes.paragraph(text=f"{words}.")]
        first = FIRST_CELL.format(repository=address)
        colab = f"{words} or on Colab. Binder installs the locked versions. Colab has versions, and a Python, of its"
        colab += " own, so its numbers are not those of record; there, run this in a first cell:"
        return [nodes.paragraph(text=colab), nodes.literal_block(first, first, language="none")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("launch", LaunchDirective)
    app.connect("html-page-context", buttons, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
