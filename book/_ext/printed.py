"""Sphinx extension: the book as one PDF, in the download menu of every page, if `make pdf` made it for this build.

$HUSAI_PDF names the file. A build without it removes the PDF of an earlier one: what is offered is never out of date.
"""

import os
from pathlib import Path
from shutil import copyfile
from typing import Any

from sphinx.application import Sphinx

NAME = "husai.pdf"


def offer(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Add the PDF to a page's downloads."""
    if not os.environ.get("HUSAI_PDF"):
        return
    link = {"type": "link", "url": context["pathto"](NAME, 1), "text": "whole book (.pdf)", "icon": "fas fa-book"}
    link |= {"tooltip": "Download the whole book as a PDF", "label": "download-book-button"}
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons":
            group["buttons"].append(link)


def copy(app: Sphinx, exception: Exception | None) -> None:
    """Put the PDF into the finished site, or take an old one away."""
    made, target = os.environ.get("HUSAI_PDF"), Path(app.outdir) / NAME
    target.unlink(missing_ok=True)
    if made and not exception and app.builder.format == "html":
        copyfile(made, target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", offer, priority=900)
    app.connect("build-finished", copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
