"""The built book in a real browser, served from this machine: no console error, no outside request, fit for a phone.

HUSAI_SITE names the built HTML directory. Skipped, with the reason, where there is no site or no Chromium.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SITE = Path(os.environ["HUSAI_SITE"]) if os.environ.get("HUSAI_SITE") else None
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FOUND = sorted(SITE.rglob("*.html")) if SITE else []
PAGES = [str(path.relative_to(SITE)) for path in FOUND if "_static" not in path.parts]
PHONE = {"width": 390, "height": 844}
# Chromium's own services would otherwise look like requests of the page.
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-dev-shm-usage", "--no-first-run", "--metrics-recording-only",
]  # fmt: skip
ALL_DRAWN = "() => [...document.querySelectorAll('.math')].every(e => e.querySelector('mjx-container'))"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Keep the test output free of one line a request."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if SITE is None:
        pytest.skip(
            "HUSAI_SITE is not set: build the book, then name its HTML directory, as in HUSAI_SITE=_build/html"
        )
    if not PAGES:
        pytest.fail(
            f"HUSAI_SITE is {SITE}; wanted a directory with the built pages, found no .html file there"
        )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install Debian's package `chromium`")
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("name", PAGES or ["no site"])
def test_page(address: str, browser: Any, name: str) -> None:
    page, troubles, requested = browser.new_page(viewport=PHONE), [], []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    page.on(
        "response",
        lambda reply: troubles.append(f"{reply.status}: {reply.url}") if reply.status >= 400 else None,
    )
    page.on("request", lambda request: requested.append(request.url))
    try:
        page.goto(f"{address}/{name}", wait_until="load")
        page.wait_for_function(ALL_DRAWN, timeout=20_000)
        page.wait_for_load_state("networkidle")
        assert troubles == []
        assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []
        assert page.locator("h1").count() >= 1
        assert page.locator("mjx-merror").count() == 0
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{name} is {width} px wide on a phone of {PHONE['width']} px"
    finally:
        page.close()


def test_search_finds(address: str, browser: Any) -> None:
    """The search works without a server behind it."""
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=hungarian")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert page.locator("#search-results li").count() >= 1
    page.close()


LEDGER = "claims.html"
SHOWN = "() => [...document.querySelectorAll('table.ledger tbody tr:not(.reason)')].filter(row => !row.hidden).length"


@pytest.mark.skipif(LEDGER not in PAGES, reason="this site has no ledger")
def test_the_ledger_can_be_filtered_and_sorted(address: str, browser: Any) -> None:
    page = browser.new_page()
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
    page.close()


@pytest.mark.skipif(LEDGER not in PAGES, reason="this site has no ledger")
def test_the_ledger_is_complete_without_scripts(address: str, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/{LEDGER}")
    assert page.locator("form.ledger-tools").count() == 0
    assert page.locator("table.ledger tbody tr").count() > 100
    context.close()
