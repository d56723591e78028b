"""The report's page in a real browser: nothing is asked for, a phone is wide enough, the table sorts and filters."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_written import HOSTILE, planted

from husai.report import page as report_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--no-first-run",
]
CELLS = "name => [...document.querySelectorAll('table.features tbody tr')].map(row => row.cells[name].textContent)"
SAE, LATENT, COUNTED, MATCHED, COSINE, PROBABILITY = range(6)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install Debian's package `chromium`")
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=180_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three SAEs of 150 latents with hostile names: three pages of the table."""
    return report_page.write(planted(3, 150, name=HOSTILE + "{}"), tmp_path_factory.mktemp("report"))


@pytest.fixture
def opened(browser: Any, place: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(120_000)
    page, context.troubles, context.requested = context.new_page(), [], []
    page.on("console", lambda message: context.troubles.append(message.text))
    page.on("pageerror", lambda error: context.troubles.append(str(error)))
    page.on("dialog", lambda dialog: (context.troubles.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: context.requested.append(request.url))
    page.goto(place.as_uri())
    page.wait_for_selector("form.tools")
    yield page
    context.close()


def test_the_page_is_quiet_asks_for_nothing_and_fits_a_phone(opened: Any, place: Path) -> None:
    assert opened.context.troubles == []
    assert [url for url in opened.context.requested if not url.startswith("data:")] == [place.as_uri()]
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    widths = opened.evaluate("[...document.querySelectorAll('.plot')].map(one => one.getBoundingClientRect().width)")
    assert len(widths) == 7 and all(200 < width <= 390 for width in widths)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(opened: Any, scheme: str) -> None:
    """WCAG contrast of text, muted text and links is at least 4.5."""
    opened.emulate_media(color_scheme=scheme)
    script = """() => ['p.muted', 'dl.answers dd', 'nav a', 'td'].map(name => {
        const luminance = colour => colour.match(/\\d+/g).slice(0, 3).map(Number).map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const text = luminance(getComputedStyle(document.querySelector(name)).color);
        const ground = luminance(getComputedStyle(document.body).backgroundColor);
        return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    })"""
    assert min(opened.evaluate(script)) >= 4.5
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_table_sorts_by_click_and_by_key_with_what_is_dead_last(opened: Any) -> None:
    head = opened.locator("table.features th").nth(COSINE)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    found = [float(text.replace("−", "-")) for text in opened.evaluate(CELLS, COSINE)]
    every = sorted(planted(3, 150)["features"]["best_cosine"], reverse=True)
    assert len(found) == 200 and found == [pytest.approx(value, abs=6e-4) for value in every[:200]]

    head = opened.locator("table.features th").nth(PROBABILITY)
    head.locator("button").focus()
    opened.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert opened.locator("table.features th[aria-sort]").count() == 1
    for direction in ("descending", "ascending"):
        assert head.get_attribute("aria-sort") == direction
        opened.get_by_role("button", name="Last").click()
        assert opened.evaluate(CELLS, PROBABILITY)[-1] == "dead"
        head.locator("button").focus()
        opened.keyboard.press("Space")


def test_the_table_is_paged_and_filtered(opened: Any) -> None:
    count = opened.locator(".tools output")
    assert count.text_content() == "rows 1 to 200 of 450"
    opened.get_by_role("button", name="Next").click()
    assert count.text_content() == "rows 201 to 400 of 450"
    opened.get_by_role("button", name="Last").click()
    assert count.text_content() == "rows 401 to 450 of 450"
    assert opened.get_by_role("button", name="Next").is_disabled()

    opened.select_option("select[name=sae]", "1")
    assert count.text_content() == "rows 1 to 150 of 150"
    opened.select_option("select[name=column]", "best_cosine")
    opened.fill("input[name=low]", "0.5")
    opened.fill("input[name=high]", "0.75")
    wanted = [float(f"{value:.3f}") for value in planted(3, 150)["features"]["best_cosine"][150:300]]
    wanted = [value for value in wanted if 0.5 <= value <= 0.75]
    assert [float(text) for text in opened.evaluate(CELLS, COSINE)] == wanted and len(wanted) > 10
    opened.fill("input[name=low]", "9")
    assert count.text_content() == "rows 0 to 0 of 0" and opened.evaluate(CELLS, COSINE) == []
    assert opened.context.troubles == []


def test_without_scripts_the_first_rows_stand(browser: Any, place: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(place.as_uri())
    assert page.locator("table.features tbody tr").count() == 200
    assert page.get_by_text("Without scripts these are the first 200 of 450 rows.").is_visible()
    context.close()
