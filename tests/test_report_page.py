"""The report's page: what it says, what it escapes, what it asks for, and what it does with what is not there."""

import json
import re
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser

import pytest
from report_written import HOSTILE, against, estimate, planted

from husai.evidence import Estimate
from husai.report import page, protocol, tables, words


class Reader(HTMLParser):
    """Collects elements with their attributes and the text of the page, and checks that elements nest."""

    VOID = ("meta", "link", "br", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.found, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def missing(entry) -> Iterator[dict]:
    """Yield everything that a report does not have."""
    if tables.missing(entry):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from missing(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from missing(value)


def numbered(entry, start: int = 0) -> int:
    """Give every value that is not there a reason of its own; return how many."""
    for number, one in enumerate(missing(entry), start):
        one["reason"] = f"reason <{number}>"
    return number + 1


@pytest.fixture(scope="module")
def full() -> str:
    return page.render(planted())


def test_the_planted_reports_follow_the_schema():
    for report in (planted(), planted(2, activations=False, name=HOSTILE)):
        protocol.validate(report)


def test_a_page_asks_for_nothing(full):
    assert re.findall(r"https?://|@import|\bfetch\(|XMLHttpRequest|import\(", full) == []
    elements = read(full).found
    assert [tag for tag, at in elements if "src" in at or tag in ("iframe", "img", "object", "embed")] == []
    links = {at["href"] for tag, at in elements if "href" in at and tag != "use"}
    outside = {link for link in links if not link.startswith(("#", "data:"))}
    assert outside == {"features.csv", "features.parquet", "stability-v1.json"}
    assert [url for url in re.findall(r"url\(([^)]*)\)", full) if not url.startswith("#")] == []
    assert any(at.get("http-equiv") == "Content-Security-Policy" for _, at in elements)


def test_links_inside_the_page_find_their_place_and_ids_are_unique(full):
    elements = read(full).found
    ids = [at["id"] for _, at in elements if "id" in at]
    assert len(ids) == len(set(ids))
    targets = {at["href"][1:] for _, at in elements if at.get("href", "").startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", full))
    assert targets <= set(ids)


def test_every_figure_has_a_text_and_every_control_a_name(full):
    elements = read(full).found
    drawn = [at for tag, at in elements if tag == "svg"]
    assert len(drawn) == 7 and all(at["role"] == "img" and len(at["aria-label"]) > 30 for at in drawn)
    assert all(at.get("aria-label") for _, at in elements if at.get("role") == "region")
    assert [tag for tag, _ in elements].count("h1") == 1


def test_what_is_null_shows_its_reason():
    report = json.loads(json.dumps(planted(2, activations=False)))
    for key in ("N0", "N2", "estimate"):  # what a report of two SAEs could lack beside all that needs activations
        report["scores"][1][key] = {"value": None, "reason": "planted"}
    report["seeds_needed"][0]["seeds"] = {"value": None, "reason": "planted"}
    # one null, said of several columns of a score, is shown once for each
    many = numbered(report)
    assert many > 20
    text = read(page.render(report)).text
    shown = {number for number in range(many) if f"reason <{number}>" in text}
    matrices = {int(one["matrix"]["reason"][8:-1]) for one in report["scores"] if tables.missing(one["matrix"])}
    assert set(range(many)) - shown <= matrices  # the estimate of the same score says why
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", text)


def test_hostile_names_are_shown_as_they_are_and_never_run():
    report = planted(3, name=HOSTILE + "{}")
    report["warnings"], report["replication"]["caveat"] = [HOSTILE], HOSTILE
    text = page.render(report)
    assert [at.get("type") for tag, at in read(text).found if tag == "script"] == ["application/json", None]
    assert "alert('x')" not in text.replace(str(escape(HOSTILE)), "")
    assert read(text).text.count(HOSTILE) == 3 + 2


@pytest.mark.parametrize(
    "value, half, opening",
    [(0.2, 0.05, "Yes."), (-0.2, 0.05, "No, less than that."), (0.02, 0.05, "It cannot be told.")],
)
def test_the_interval_of_the_difference_decides_the_answer(value, half, opening):
    report = planted()
    for score in report["scores"]:
        if not tables.missing(score["N2"]):
            score["N2"] = against(3, 0.6, 0.6 - value)
            score["N2"]["gap"] = estimate(3, value, half)
    answers = words.answers(report)
    assert answers[0].answer.startswith("Yes.") and answers[1].answer.startswith(opening)
    assert str(Estimate(value, value - half, value + half, 3)) in answers[1].answer


def test_two_saes_settle_nothing():
    report = planted(2)
    for one in words.answers(report)[:2]:
        assert one.answer.startswith("Not settled") and "fewer than 3 SAEs" in one.answer
    assert "6 SAEs, 4 more than you have" in words.answers(report)[3].answer
    assert "3 SAEs, and you have 5" in words.answers(planted(5))[3].answer


def test_the_answer_is_of_alive_latents_where_they_are_known():
    assert words.pick(planted()["scores"])["latents"] == "alive"
    assert words.pick(planted(activations=False)["scores"])["latents"] == "all"


def test_the_share_that_comes_back_is_that_of_the_counts():
    report = planted(4, latents=40)
    for row in report["matched"]:
        row["in_all"], row["in_some"], row["in_none"] = 10, 10, 20
    assert "In all other SAEs are 0.250 of the latents, in some but not all 0.250, in none 0.500" in words.returning(
        report
    )
    for row in report["matched"]:
        row["latents"] = 0
    assert words.returning(report) == "None: no latent is counted."


def test_the_summary_is_one_line_also_without_activations():
    for report in (planted(), planted(2, activations=False)):
        assert "\n" not in words.summary(report)
    assert "needs activations" in words.summary(planted(activations=False))


def test_the_whole_table_is_in_the_page_and_its_first_rows_without_a_script(full):
    report = planted()
    data = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', full, re.DOTALL)[1])
    assert data["columns"] == tables.texts(report) and data["size"] == 120
    few = read(page.render(report, rows=7))
    assert [tag for tag, _ in few.found].count("tr") == [tag for tag, _ in read(full).found].count("tr") - 113


def test_everything_that_is_written_says_the_same(tmp_path):
    report = planted()
    written = page.write(report, tmp_path / "new" / "folder")
    names = {path.name for path in written.parent.iterdir()}
    assert names == {"index.html", "stability-v1.json", "features.csv", "features.parquet"}
    assert json.loads((written.parent / "stability-v1.json").read_text()) == report
    assert written.read_text() == page.render(report)  # the same report gives the same bytes


def test_headlines_leave_out_what_is_not_there():
    assert set(words.headline(planted())) == {"score", "gap_N0", "gap_N2", "mutual", "mutual_gap_N0", "mutual_gap_N2"}
    assert set(words.headline(planted(activations=False))) == {"score", "gap_N0", "mutual", "mutual_gap_N0"}
