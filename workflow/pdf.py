"""The book as one PDF, made without a network: one page of HTML, printed by Chromium. `make pdf` runs it.

Arguments: the folder of the book's sources, and where to build, as in `workflow/pdf.py book _build/paper/pdf`.
"""

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NAME = "husai.pdf"
PATIENCE = 300_000
"""Milliseconds that the page with the whole book may take to load."""
DRAWN = "() => [...document.querySelectorAll('.math')].every(e => e.querySelector('mjx-container'))"
WIDTH, SCALE = 178, 0.75
"""Millimetres of the text on a page of A4, and how much smaller it is than on a screen."""
# A table that is wider than the page shrinks to it. Captions of the list of contents are no headings of the outline.
# Pages put together repeat ids of the form id7: those of the references are the ones that links mean. A link to what
# is not on paper, as the search page, is none.
PAPER = """() => {
  document.documentElement.dataset.theme = 'light';
  document.querySelectorAll('[role=heading]').forEach(e => e.removeAttribute('role'));
  for (const table of document.querySelectorAll('article table')) {
    const room = (table.closest('.cell_output, .container') ?? table.parentElement).clientWidth;
    if (table.scrollWidth > room) table.style.zoom = room / table.scrollWidth;
  }
  for (const e of document.querySelectorAll('[id]'))
    if (/^id\\d+$/.test(e.id) && !e.matches('.citation')) e.removeAttribute('id');
  for (const a of document.querySelectorAll('a[href]')) {
    const here = a.origin === location.origin;
    const found = a.pathname === location.pathname && document.getElementById(decodeURIComponent(a.hash.slice(1)));
    if (here && !found) a.removeAttribute('href');
  }
}"""
FOOT = (
    "<div style='width: 100%; font-size: 8px; text-align: center; color: #555'><span class='pageNumber'></span></div>"
)


class Quiet(SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def chromium() -> str:
    """Return the path of Chromium; end with what to install where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"make pdf prints the book with Chromium; none of {', '.join(BROWSERS)} is on the PATH")
    return found


def single(book: Path, build: Path) -> Path:
    """Build the whole book as one page of HTML; return its folder."""
    if not list((book / "executed").glob("*.ipynb")):
        sys.exit(f"no executed notebooks in {book / 'executed'}: run `make paper` first")
    made = ["jupyter-book", "build", str(book), "--config", "_config.yml", "--toc", os.path.abspath("_toc.yml")]
    made += ["--path-output", str(build), "--builder", "singlehtml", "--all", "-W", "-n", "--keep-going"]
    done = subprocess.run(made, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-8000:]}\nthe page to print was not built")
    return build / "_build" / "singlehtml"


def printed(site: Path, path: Path, browser: str) -> None:
    """Print `index.html` of a folder into a PDF with an outline, under a temporary name until it is whole."""
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with sync_playwright() as driver:
            window = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = window.new_page(viewport={"width": round(WIDTH / 25.4 * 96 / SCALE), "height": 1200})
            page.emulate_media(media="print", color_scheme="light")
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html", wait_until="load", timeout=PATIENCE)
            page.evaluate("async () => await window.MathJax?.startup?.promise")
            if not page.evaluate(DRAWN):
                sys.exit("some equations were not drawn: the page to print lacks MathJax")
            page.evaluate(PAPER)
            page.pdf(
                path=temporary, format="A4", scale=SCALE, print_background=True, outline=True, tagged=True,
                display_header_footer=True, header_template="<span></span>", footer_template=FOOT,
                margin={"top": "18mm", "bottom": "18mm"} | dict.fromkeys(("left", "right"), f"{(210 - WIDTH) / 2}mm"),
            )  # fmt: skip
            window.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        server.shutdown()
        server.server_close()


def main(book: Path, build: Path) -> None:
    """Make the PDF."""
    browser = chromium()
    printed(single(book, build), build / NAME, browser)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
