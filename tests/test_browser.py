"""The built book in a real browser, served from this machine: every page at a phone's width, in the light and the dark.

HUSAI_SITE names the built HTML directory. Skipped, with the reason, where there is no site or no Chromium.
"""

import csv
import functools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

SITE = Path(os.environ["HUSAI_SITE"]) if os.environ.get("HUSAI_SITE") else None
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FOUND = sorted(SITE.rglob("*.html")) if SITE else []
PAGES = [str(path.relative_to(SITE)) for path in FOUND if not {"_static", "_downloads"} & set(path.parts)]
NOTEBOOKS = [name for name in PAGES if name.startswith("executed/")]
FIRST = NOTEBOOKS[0] if NOTEBOOKS else "none"
PHONE = {"width": 390, "height": 844}
PATIENCE = 120_000  # ms: the machine may be busy with a run of the book
# Chromium's own services would otherwise look like requests of the page.
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-dev-shm-usage", "--no-first-run", "--metrics-recording-only",
]  # fmt: skip
ALL_DRAWN = "() => [...document.querySelectorAll('.math')].every(e => e.querySelector('mjx-container'))"
# What is wrong with a page as it stands, in one look: pictures, words, names of controls, width.
LOOK = """
async () => {
  const images = [...document.querySelectorAll("main img")];
  images.forEach(image => { image.loading = "eager"; });
  await Promise.all(images.map(image => image.decode().catch(() => {})));
  const clone = document.querySelector("main").cloneNode(true);
  clone.querySelectorAll("code, pre, script, style").forEach(part => part.remove());
  const name = control => (control.getAttribute("aria-label") || control.title || control.textContent).trim();
  return {
    absent: images.filter(image => !image.naturalWidth).map(image => image.src),
    wordless: images.filter(image => !image.alt || image.alt.includes("_images/")).map(image => image.src),
    unresolved: clone.textContent.match(/\\[missing|\\{(result|claim|verdict|cite|doc|ref)[^}]*\\}|\\[\\?\\]/g) || [],
    nameless: [...document.querySelectorAll("button, summary")].filter(c => !name(c)).map(c => c.outerHTML),
    unreachable: [...document.querySelectorAll("main :is(button, summary, a[href])")]
      .filter(c => c.tabIndex < 0).map(c => c.outerHTML),
    unsigned: [...document.querySelectorAll("main figure")]
      .filter(figure => !figure.querySelector("p.drawn") || !figure.querySelector("img")).map(figure => figure.id),
    origin: document.querySelectorAll("main div.origin").length,
    titles: document.querySelectorAll("h1").length,
    errors: [...document.querySelectorAll("mjx-merror")].map(error => error.textContent),
    ids: [...document.querySelectorAll("[id]")].map(e => e.id),
    links: [...document.querySelectorAll("main a[href]")].map(a => [a.href, a.hasAttribute("download")]),
  };
}
"""
WRONG = ("absent", "wordless", "unresolved", "nameless", "unreachable", "unsigned", "errors", "troubles", "outside")
MODE = """[document.documentElement.scrollWidth,
          ...["backgroundColor", "color"].map(what => getComputedStyle(document.body)[what])]"""
GENERATED = ("search.html", "genindex.html")


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Keep the test output free of one line a request."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if SITE is None:
        pytest.skip("HUSAI_SITE is not set: build the book, then name its HTML directory, as in HUSAI_SITE=_build/html")
    if not PAGES:
        pytest.fail(f"HUSAI_SITE is {SITE}; wanted a directory with the built pages, found no .html file there")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium(address: str) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install Debian's package `chromium`")
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with api.sync_playwright() as driver:
        process = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=PATIENCE)
        yield process
        process.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of a reader who was never here before."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def watched(page: Any) -> tuple[list[str], list[str]]:
    """Return two lists that fill while the page lives: what went wrong, and what was asked for."""
    troubles: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    page.on("response", lambda r: troubles.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    page.on("request", lambda request: requested.append(request.url))
    return troubles, requested


@pytest.fixture(scope="module")
def visit(address: str, chromium: Any) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Look at a page once, however many tests ask for it, in one context, so that the theme is fetched once."""
    context = chromium.new_context(viewport=PHONE)
    context.set_default_timeout(PATIENCE)

    @functools.cache
    def look(name: str) -> dict[str, Any]:
        page = context.new_page()
        troubles, requested = watched(page)
        page.goto(f"{address}/{name}", wait_until="load")
        page.wait_for_function(ALL_DRAWN)
        found = page.evaluate(LOOK)
        for mode in ("light", "dark"):
            page.evaluate("mode => { document.documentElement.dataset.theme = mode; }", mode)
            found[mode] = page.evaluate(MODE)
        page.wait_for_load_state("networkidle")
        page.close()
        outside = [url for url in requested if not url.startswith((address, "data:", "blob:"))]
        return found | {"troubles": troubles, "outside": outside}

    yield look
    context.close()


@pytest.mark.parametrize("name", PAGES or ["no site"])
def test_page(visit: Callable[[str], dict[str, Any]], name: str) -> None:
    found = visit(name)
    assert found["titles"] >= 1
    for trouble in WRONG:
        assert found[trouble] == [], trouble
    assert found["origin"] == (name not in GENERATED), "a page says, once, where its numbers come from"
    for mode in ("light", "dark"):
        width, paper, ink = found[mode]
        assert width <= PHONE["width"], f"{name}, {mode}, is {width} px wide on a phone of {PHONE['width']} px"
        assert contrast(paper, ink) >= 7, f"{mode}: {ink} on {paper}"


def contrast(*colours: str) -> float:
    """Return the contrast of two CSS colours `rgb(r, g, b)`, from 1 to 21 (WCAG 2.2)."""
    parts = [[int(part) / 255 for part in colour[4:-1].split(",")] for colour in colours]
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in part] for part in parts]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.skipif(not PAGES, reason="no site")
def test_every_link_within_the_book_leads_somewhere_and_every_download_parses(
    address: str, visit: Callable[[str], dict[str, Any]]
) -> None:
    assert SITE is not None
    seen = {name: visit(name) for name in PAGES}
    files = set()
    for name in PAGES:
        for link, saves in seen[name]["links"]:
            url, place = urldefrag(link)
            if not url.startswith(address):
                continue
            path = unquote(url.removeprefix(f"{address}/"))
            assert (SITE / path).is_file(), f"{name} links to {path}"
            assert not place or path not in seen or unquote(place) in seen[path]["ids"], (
                f"{name} links to {path}#{place}"
            )
            files |= {path} if saves or path.endswith(".ipynb") else set()
    kinds = {
        kind: [SITE / path for path in files if path.endswith(kind)] for kind in (".csv", ".svg", ".json", ".ipynb")
    }
    assert len(kinds[".ipynb"]) == len(NOTEBOOKS) and len(kinds[".json"]) >= 2 * len(NOTEBOOKS)
    assert len(kinds[".csv"]) > len(NOTEBOOKS) or len(NOTEBOOKS) < 10
    for path in kinds[".csv"]:
        head, *rows = csv.reader(path.read_text().splitlines())
        of_a_figure = path.name[:2].isdigit()  # the others are tables, such as that of a report's features
        assert "mark" in head or not of_a_figure, path.name
        assert rows and {len(row) for row in rows} == {len(head)}, path.name
    for path in [*kinds[".json"], *kinds[".ipynb"]]:
        content = json.loads(path.read_text())
        executed = [cell for cell in content.get("cells", ()) if cell["cell_type"] == "code"]
        assert content and (not executed or any(cell["outputs"] for cell in executed)), path.name
    assert all(path.read_text().lstrip().startswith("<?xml") for path in kinds[".svg"])


@pytest.mark.parametrize("way", ["served", "as a file"])
@pytest.mark.skipif("search.html" not in PAGES, reason="this site has no search")
def test_search_finds_the_page_of_a_word(address: str, page: Any, way: str) -> None:
    """... without a server behind it, and from a copied folder without any server."""
    assert SITE is not None
    troubles, _ = watched(page)
    page.goto(f"{address if way == 'served' else SITE.resolve().as_uri()}/search.html?q=hungarian")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("document.querySelector('#search-results > p.search-summary').textContent.includes('found')")
    links = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    assert any("claims.html" in link for link in links), links
    assert troubles == []


@pytest.mark.skipif(not NOTEBOOKS, reason="this site has no notebook")
def test_a_copied_folder_reads_like_the_served_site(page: Any) -> None:
    assert SITE is not None
    troubles, requested = watched(page)
    page.goto(f"{SITE.resolve().as_uri()}/{FIRST}")
    page.wait_for_function(ALL_DRAWN)
    assert troubles == [] and all(url.startswith(("file:", "data:")) for url in requested)


OPEN = "[...document.querySelectorAll('details.code')].map(fold => fold.open)"


@pytest.mark.skipif(not NOTEBOOKS, reason="this site has no notebook")
def test_code_shows_and_hides_cell_by_cell_and_at_once_by_keyboard_and_stays_so(address: str, page: Any) -> None:
    page.goto(f"{address}/{FIRST}")
    page.wait_for_selector("button.code-switch")
    written = page.evaluate(OPEN)
    assert True in written and False in written, "as the notebook says: what computes is open, what draws is not"
    summary = page.locator("details.code > summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(OPEN) == [not written[0], *written[1:]]

    switch = page.locator("button.code-switch")
    assert switch.inner_text() == "Hide all code"
    switch.focus()
    page.keyboard.press("Space")
    assert not any(page.evaluate(OPEN)) and switch.inner_text() == "Show all code"
    assert not page.locator("details.code .highlight").first.is_visible()
    page.reload()
    page.wait_for_selector("button.code-switch")
    assert not any(page.evaluate(OPEN))
    page.goto(f"{address}/{NOTEBOOKS[-1]}")
    page.wait_for_selector("button.code-switch")
    assert not any(page.evaluate(OPEN))
    page.locator("button.code-switch").click()
    assert all(page.evaluate(OPEN))


@pytest.mark.skipif(not NOTEBOOKS, reason="this site has no notebook")
def test_a_figure_leads_to_the_code_that_made_it(address: str, page: Any) -> None:
    page.goto(f"{address}/{FIRST}")
    page.locator("button.code-switch").click()
    page.locator("p.drawn a[href*='#cell-']").first.click()
    cell = page.locator(":target")
    assert "plots.save" in cell.locator("details.code[open] .highlight").inner_text()
    assert cell.locator("p.drawn").count() == 1, "the cell that the link leads to is the one that shows the figure"


def test_a_reader_without_a_mouse_skips_to_the_text_and_sees_the_focus(address: str, page: Any) -> None:
    page.goto(f"{address}/{FIRST if NOTEBOOKS else PAGES[0]}")
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main-content"
    page.keyboard.press("Enter")
    visited = []
    for _ in range(25):
        page.keyboard.press("Tab")
        visited.append(page.evaluate(
            "(e => [e.outerHTML, Boolean(e.closest('main')), getComputedStyle(e).outlineStyle,"
            " parseFloat(getComputedStyle(e).outlineWidth)])(document.activeElement)"
        ))  # fmt: skip
    assert visited[0][1], "the first stop after the skip link lies in the text"
    assert [html for html, _, style, width in visited if style == "none" or width < 1] == []


@pytest.mark.skipif(not NOTEBOOKS, reason="this site has no notebook")
def test_the_dark_can_be_chosen_and_is_kept(address: str, page: Any) -> None:
    page.goto(f"{address}/{FIRST}")
    for _ in range(3):
        page.locator("button.theme-switch-button").first.click()
        if page.evaluate("document.documentElement.dataset.mode") == "dark":
            break
    page.goto(f"{address}/index.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert contrast(page.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)") > 10


LEDGER = "claims.html"
SHOWN = "() => [...document.querySelectorAll('table.ledger tbody tr:not(.reason)')].filter(row => !row.hidden).length"


@pytest.mark.skipif(LEDGER not in PAGES, reason="this site has no ledger")
def test_the_ledger_can_be_filtered_and_sorted(address: str, page: Any) -> None:
    page.goto(f"{address}/{LEDGER}")
    page.wait_for_selector("form.ledger-tools output")
    every = page.evaluate(SHOWN)
    assert every > 100 and page.text_content("form.ledger-tools output") == f"{every} of {every} claims"

    tiers = page.locator("select[name=tier] option").all_text_contents()
    assert tiers[0] == "all" and len(tiers) > 1
    counts = []
    for tier in tiers[1:]:
        page.select_option("select[name=tier]", tier)
        counts.append(page.evaluate(SHOWN))
    assert sum(counts) == every and min(counts) > 0
    page.select_option("select[name=tier]", "")
    page.fill("input[name=words]", "gates E25")
    assert page.evaluate(SHOWN) == 1
    page.fill("input[name=words]", "")
    assert page.evaluate(SHOWN) == every

    table = "() => [...document.querySelector('table.ledger tbody').rows].map(row => [row.className, row.innerText])"
    before = page.evaluate(table)
    head = page.locator("table.ledger").first.locator("th").first
    for direction in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        rows = page.evaluate(table)
        assert sorted(rows) == sorted(before) and rows != before
        for (_, claim), (kind, text) in zip(rows, rows[1:], strict=False):
            assert "reason" not in kind or text.split(":")[0] == claim.split()[0]  # below its claim still


@pytest.mark.skipif(LEDGER not in PAGES, reason="this site has no ledger")
def test_the_ledger_is_complete_without_scripts(address: str, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/{LEDGER}")
    assert page.locator("form.ledger-tools").count() == 0
    assert page.locator("table.ledger tbody tr").count() > 100
    context.close()
