"""Sphinx extension: the built book asks nothing of the network.

MathJax is one file copied from the package `sphinx-mathjax-offline`; Thebe, which Jupyter Book always loads from a
CDN and twice, is unplugged.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

# The SVG output needs no font files, and `full` holds every TeX extension: nothing is fetched later.
MATHJAX = "tex-svg-full.js"


def configure(app: Sphinx, config: Config) -> None:
    """Point Sphinx at the local MathJax and disconnect Thebe's handlers."""
    config.mathjax_path = f"mathjax/{MATHJAX}"
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__.partition(".")[0] == "sphinx_thebe":
                app.disconnect(listener.id)


def drop_thebe(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Remove the style sheet that Thebe adds while it is set up, before any handler can be disconnected."""
    context["css_files"] = [file for file in context["css_files"] if "thebe" not in str(file.filename)]


def drop_fonts(app: Sphinx, exception: Exception | None) -> None:
    """Remove the theme's preloading of icon fonts: its icons are drawn by script, and a page read as a file may not."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text()
        path.write_text(re.sub(r'<link rel="preload" as="font"[^>]*>\n?', "", page))


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Put MathJax into the finished site (under _static/ earlier, Jupyter Book would load it twice)."""
    if exception or app.builder.format != "html":
        return
    package = find_spec("sphinx-mathjax-offline")
    if package is None or not package.submodule_search_locations:
        raise ExtensionError("sphinx-mathjax-offline is not installed; the book draws its equations with it, offline")
    source = Path(package.submodule_search_locations[0]) / "static" / "mathjax" / MATHJAX
    target = Path(app.outdir) / "_static" / "mathjax" / MATHJAX
    target.parent.mkdir(parents=True, exist_ok=True)
    copyfile(source, target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", configure, priority=900)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", drop_fonts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
