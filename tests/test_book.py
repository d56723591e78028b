"""The book's extensions on a tiny Sphinx project, and the ledger against the plan."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from husai import evidence

pytest.importorskip("sphinx", reason="the book's packages are not installed")
import yaml  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.util.docutils import docutils_namespace, patch_docutils  # noqa: E402

ROOT = Path(__file__).parents[1]
STEM = "22_trained_vs_random"
EXTENSIONS = ("results", "measured", "forest", "carried", "cells", "drawn", "origin", "offline")
PLANNED = {f"{part}{n}" for part, last in enumerate((3, 6, 7, 5, 5, 5, 5, 1), 1) for n in range(1, last + 1)}
GAP = {"value": 0.21, "low": 0.18, "high": 0.24, "n": 5, "unit": "", "method": "jackknife over seeds, t(4)"}
LEDGER = """
[P1]
quantity = "trained PWMCC"
reported = "0.3001"
source = "stability paper"
notebook = "22"
statement = "Trained agrees as chance does."
verdict = [ { value = "gap", rule = "equivalent", margin = 0.02 } ]

["A5.1e-4"]
quantity = "a claim to come"
reported = "1"
source = "paper"
notebook = "41"
"""


class Project:
    """A Sphinx project of one page, with the results of one notebook."""

    def __init__(self, root: Path) -> None:
        self.source, self.output = root / "book", root / "html"
        (self.source / "results").mkdir(parents=True)
        (self.source / "claims.toml").write_text(LEDGER)
        self.results("paper")

    def results(self, profile: str, **fields: Any) -> None:
        values = {"gap": GAP, "steps": 1400, "converged": True}
        claim = evidence.load_claims(self.source / "claims.toml")["P1"]
        judged = {"reproduced": "not run", "verdict": "refuted", "reason": "gap too large"}
        judged |= {"criterion": claim.criterion, **fields}
        content = {"notebook": STEM, "profile": profile, "values": values, "claims": {"P1": judged}}
        (self.source / "results" / f"{STEM}.json").write_text(json.dumps(content))

    def build(self, *texts: str, names: tuple[str, ...] = ("index",)) -> tuple[str, str]:
        """Return the first page named, as HTML, and the warnings of a fresh build."""
        for name, text in {"index": "# T", **dict(zip(names, texts, strict=True))}.items():
            path = self.source / f"{name}.md"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text if name == "index" else f"---\norphan: true\n---\n\n{text}")
        settings = {
            "extensions": ["myst_nb", *EXTENSIONS], "html_theme": "basic", "nitpicky": True, "numfig": True,
            "nb_execution_mode": "off", "exclude_patterns": ["results"],
        }  # fmt: skip
        with open(self.output.parent / "warnings", "w+") as stream, patch_docutils(), docutils_namespace():
            places = [self.source, None, self.output, self.output / ".doctrees"]
            app = Sphinx(*map(lambda p: p and str(p), places), "html", settings, None, stream, freshenv=True)
            app.build(force_all=True)
            self.environment = app.env
            stream.seek(0)
            return (self.output / f"{names[0]}.html").read_text(), stream.read()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    return Project(tmp_path)


# --- {measured} -----------------------------------------------------------------------------------------------------


def test_measured_tables_come_from_the_benchmarks_fastest_first(project: Project) -> None:
    ranged = {**GAP, "value": 0.2, "method": "median and range of 3 runs"}
    row = {"ms": GAP, "slower": GAP, "memory": 3.5, "bounds": ranged}
    found = {
        "notebook": "speed", "profile": "full", "claims": {}, "values": {"memory": 12.5, "ratio": row["bounds"]},
        "peers": {"slow": {**row, "ms": {**GAP, "value": 0.23}}, "fast": row},
        "metrics": [{"what": "score", "n": 2048, "median": 0.5, "low": 0.4, "high": 0.6, "unit": "s"}],
    }  # fmt: skip
    (project.source / "reference").mkdir()
    (project.source / "reference" / "speed.json").write_text(json.dumps(found))
    tables = "# T\n\n```{measured} peers\n```\n\n```{measured} metrics\n```\n\n"
    text = tables + "{result}`speed:memory`, {result}`speed:ratio`"
    page, warnings = project.build(text)
    assert warnings == ""
    assert page.index(">fast<") < page.index(">slow<") and "2,048" in page and "12.5" in page
    assert "0.400 to 0.600" in page
    assert 'title="median and range of 3 runs' in page and "95 % interval: median" not in page


# --- {result} -------------------------------------------------------------------------------------------------------


def test_result_shows_an_estimate_as_the_library_formats_it(project: Project) -> None:
    page, warnings = project.build("# T\n\n{result}`22:gap`, {result}`22:steps`, {result}`22:converged`")
    assert warnings == ""
    assert str(evidence.Estimate(**GAP)) in page
    assert "1,400" in page and ">yes<" in page
    assert "jackknife over seeds, t(4), n = 5" in page


def test_result_reaches_fields_and_judgements(project: Project) -> None:
    page, warnings = project.build("# T\n\n{result}`22:gap.n` {result}`22:gap.low` {result}`22:claims.P1.verdict`")
    assert warnings == ""
    assert ">5<" in page and ">0.180<" in page and ">refuted<" in page


def test_result_makes_its_file_a_dependency_of_the_page(project: Project) -> None:
    project.build("# T\n\n{result}`22:gap`")
    assert any(str(path).endswith(f"{STEM}.json") for path in project.environment.dependencies["index"])


def test_result_links_to_its_notebook(project: Project) -> None:
    (project.source / "results" / f"{STEM}.provenance.json").write_text(json.dumps({"commit": "abc", "dirty": False}))
    names = ("index", f"executed/{STEM}")
    page, warnings = project.build("# T\n\n{result}`22:gap`", "# Notebook\n\n{result}`22:gap`", names=names)
    assert warnings == ""
    assert f'href="executed/{STEM}.html"><abbr class="result" title="95 % interval: jackknife' in page


@pytest.mark.parametrize("role, wanted", [
    ("22:gapp", ["'gapp'", f"results/{STEM}.json", "gap"]),
    ("22:claims.P2.verdict", ["'claims.P2.verdict'", "claims.P1.verdict"]),
    ("22:nothing_alike_zzz", ["converged", "gap", "steps"]),
    ("31:gap", ["'31'", "results/"]),
])  # fmt: skip
def test_missing_result_warns_and_names_it(project: Project, role: str, wanted: list[str]) -> None:
    page, warnings = project.build(f"# T\n\nbefore {{result}}`{role}` after")
    assert "index.md:3" in warnings and f"{{result}}`{role}`" in warnings
    assert all(word in warnings for word in wanted)
    assert "before" in page and "missing" in page


# --- {verdict}, {claims}, {scoreboard} ------------------------------------------------------------------------------

VERDICT = "# T\n\n```{verdict} P1\n:expect: %s\n\nWords that rest on it.\n```\n"


def test_a_forest_draws_stored_estimates_and_its_caption(project: Project) -> None:
    text = "```{forest} gain\n:name: 50_x\n:zero: 0\n:alt: one row\n\n# Group\nfeatures | 22:gap\n\nThe *caption*.\n```"
    page, warnings = project.build(f"# T\n\n{text}\n")
    assert warnings == "" and 'alt="one row"' in page and "<em>caption</em>" in page
    assert (project.source / "figures/50_x.svg").read_text().startswith("<?xml")
    page, warnings = project.build("# T\n\n" + text.replace("22:gap", "22:steps"))
    assert "no estimate of that name" in warnings and "50_x" not in page


def test_verdict_shows_statement_words_and_judgement(project: Project) -> None:
    page, warnings = project.build(VERDICT % "refuted")
    assert warnings == ""
    for words in (
        "Trained agrees as chance does.",
        "Words that rest on it.",
        "refuted",
        "gap too large",
        "0.3001",
    ):
        assert words in page


@pytest.mark.parametrize("profile, complains", [("paper", True), ("full", True), ("smoke", False), ("lab", False)])
def test_turned_verdict_fails_citable_profiles_only(project: Project, profile: str, complains: bool) -> None:
    project.results(profile)
    page, warnings = project.build(VERDICT % "supported")
    assert ("expects verdict = supported, the run says refuted" in warnings) == complains
    assert complains or warnings == ""
    assert ("not for citation" in page) == (not complains)


def test_words_about_reproduction_are_bound_too(project: Project) -> None:
    _, warnings = project.build("# T\n\n```{verdict} P1\n:reproduced: yes\n```\n")
    assert "expects reproduced = yes, the run says not run" in warnings


def test_a_criterion_changed_after_the_run_warns(project: Project) -> None:
    project.results("paper", criterion="000000000000")
    _, warnings = project.build(VERDICT % "refuted")
    assert "criterion changed after the run" in warnings


def test_unknown_claim_and_unjudged_notebook_warn(project: Project) -> None:
    _, warnings = project.build("# T\n\n```{verdict} P11\n```\n\n```{verdict} A5.1e-4\n```\n")
    assert "P11" in warnings and "P1" in warnings and "'41'" in warnings


def test_a_sentence_is_tied_to_its_claim(project: Project) -> None:
    page, warnings = project.build(
        "# T\n\nThey agree {claim}`P1 refuted`.", "# L\n\n```{claims}\n```", names=("index", "claims")
    )
    assert warnings == ""
    assert 'href="claims.html#claim-p1"' in page and "Trained agrees as chance does. refuted: gap too large" in page


@pytest.mark.parametrize(
    ("role", "wanted"),
    [
        ("P1 supported", "stands on supported, the run says refuted"),
        ("P9 refuted", "no such claim"),
        ("P1", "is wanted"),
    ],
)
def test_a_sentence_that_no_claim_carries_warns(project: Project, role: str, wanted: str) -> None:
    assert wanted in project.build(f"# T\n\nThey agree {{claim}}`{role}`.")[1]


def test_ledger_and_scoreboard_show_what_no_run_has_judged(project: Project) -> None:
    page, warnings = project.build("# T\n\n```{scoreboard}\n```\n\n```{claims}\n```\n")
    assert warnings == ""
    assert page.count("<tr") == 1 + 2 + 1  # head, two claims, one reason
    assert 'id="claim-a5-1e-4"' in page and "gap too large" in page
    assert "<strong>1</strong> <span" in page and "<strong>2</strong> <span" in page


WORDS = [("paper", "measured here"), ("full", "measured here"), ("smoke", "smoke scale")]


@pytest.mark.parametrize("profile, word", WORDS)
def test_the_ledger_says_what_stands_behind_a_judgement(project: Project, profile: str, word: str) -> None:
    project.results(profile)
    page, _ = project.build("# T\n\n```{claims}\n```\n")
    assert page.count(f">{word}<") == 1 and page.count(">source only<") == 1


def test_a_claim_that_this_build_has_not_judged_is_the_reference_runs(project: Project) -> None:
    (project.source / "reference").mkdir()
    (project.source / "results" / f"{STEM}.json").rename(project.source / "reference" / f"{STEM}.json")
    page, warnings = project.build("# T\n\n```{scoreboard}\n```\n\n```{claims}\n```\n")
    assert warnings == "" and page.count(">reference run<") == 1 and "gap too large" in page
    assert "measured here" not in page and page.count(">source only<") == 1


@pytest.mark.parametrize("profile, fields, said", [
    ("paper", {"criterion": "000000000000"}, "claim P1: its criterion changed after the reference run"),
    ("smoke", {}, "claim P1: its reference run is of the smoke profile"),
])  # fmt: skip
def test_a_reference_run_that_does_not_count_judges_nothing(
    project: Project, profile: str, fields: dict, said: str
) -> None:
    project.results(profile, **fields)
    (project.source / "reference").mkdir()
    (project.source / "results" / f"{STEM}.json").rename(project.source / "reference" / f"{STEM}.json")
    page, warnings = project.build("# T\n\n```{claims}\n```\n")
    assert said in warnings and page.count(">source only<") == 2
    assert "gap too large" not in page and ">reference run<" not in page


@pytest.mark.parametrize("option, shown, hidden", [(":notebook: 22", "P1", "A5.1e-4"), (":part: 4", "A5.1e-4", "P1")])
def test_ledger_filters(project: Project, option: str, shown: str, hidden: str) -> None:
    page, _ = project.build(f"# T\n\n```{{claims}}\n{option}\n```\n")
    assert f">{shown}<" in page and f">{hidden}<" not in page


# --- provenance and offline -----------------------------------------------------------------------------------------


def test_a_notebook_carries_its_provenance(project: Project) -> None:
    stamp = {"commit": "abc123", "dirty": True, "parameters": {"k": 32}, "seeds": [0, 1], "seconds": 12.5}
    (project.source / "results" / f"{STEM}.provenance.json").write_text(json.dumps(stamp))
    page, warnings = project.build("# Notebook\n\n## Section\n", names=(f"executed/{STEM}",))
    assert warnings == ""
    for words in ("abc123 with uncommitted changes", "k=32", "12.5"):
        assert words in page


def test_the_facts_of_a_run_stand_under_the_title(project: Project) -> None:
    stamp = {
        "commit": "0123456789", "dirty": False, "parameters": {"profile": "paper"}, "seconds": 12.5, "threads": 2,
        "machine": "Linux x86_64, 2 cores", "finished": "2026-11-21T23:15:08Z",
    }  # fmt: skip
    (project.source / "results" / f"{STEM}.provenance.json").write_text(json.dumps(stamp))
    page, warnings = project.build("# Notebook\n\nFirst words.\n", names=(f"executed/{STEM}",))
    assert warnings == ""
    line = "paper profile · commit 0123456 · Linux x86_64, 2 cores, 2 threads · 12.5 s · 2026-11-21 23:15:08 UTC"
    assert page.index("</h1>") < page.index(line) < page.index("First words.")
    saved = re.findall(r'<a class="reference download internal" download="" href="../(_downloads/\S+)"', page)
    assert [Path(path).name for path in saved] == [f"{STEM}.json", f"{STEM}.provenance.json"]
    assert json.loads((project.output / saved[1]).read_text()) == stamp


def test_a_page_names_the_runs_that_it_quotes_and_whether_they_were_clean(project: Project) -> None:
    record = project.source / "results" / f"{STEM}.provenance.json"
    record.write_text(json.dumps({"commit": "abc123456", "dirty": True}))
    names = ("index", f"executed/{STEM}")
    page, _ = project.build("# T\n\n{result}`22:gap`", "# Notebook", names=names)
    foot = re.sub("<.*?>", "", page[page.index('class="origin') :])
    assert "Quotes the results of notebook 22: paper profile, commit abc1234 with uncommitted changes." in foot
    assert f'href="executed/{STEM}.html"' in page
    assert "It quotes no results." in project.build("# T\n\nWords.")[0]


# --- cells and figures ----------------------------------------------------------------------------------------------

CELLS = [
    ("markdown", "# Notebook", []),
    ("code", "width = 4", ["parameters"]),
    ("code", "width = 8", ["injected-parameters"]),
    ("code", "x = width", []),
    ("code", 'plots.save(plots.curves(x), "22_lines")', ["hide-input"]),
    ("code", 'plots.save(plots.forest(x), "22_lost")\nx', []),
]
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
SVG = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="2" height="2"/>'


def notebook(project: Project) -> str:
    """Write an executed notebook with two figures, of which the second was saved but not shown; return its page."""
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    cells: list[dict[str, Any]] = []
    for number, (kind, text, tags) in enumerate(CELLS):
        cell = {"cell_type": kind, "id": f"c{number}", "metadata": {"tags": tags}, "source": text}
        if "save" in text:
            cell["metadata"] |= {"mystnb": {"figure": {"caption": "The caption.", "name": f"fig-{number}"}}}
            data = {"image/png": pixel} if "lines" in text else {"text/html": "<table><tr><td>kept</td></tr></table>"}
            cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}]
        cells.append(cell | ({"outputs": [], "execution_count": 1} | cell if kind == "code" else {}))
    content = {
        "cells": cells,
        "metadata": {"kernelspec": KERNEL, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (project.source / "executed").mkdir(exist_ok=True)
    (project.source / "figures").mkdir(exist_ok=True)
    (project.source / "executed" / f"{STEM}.ipynb").write_text(json.dumps(content))
    (project.source / "results" / f"{STEM}.provenance.json").write_text(json.dumps({"commit": "abc"}))
    for name in ("22_lines", "22_lost"):
        (project.source / "figures" / f"{name}.svg").write_text(SVG)
        data = "panel,series,mark,x,y,x_axis,y_axis\nleft,ours,line,1,2,width,score\n"
        (project.source / "figures" / f"{name}.csv").write_text(data)
    return f"executed/{STEM}"


def test_cells_are_numbered_as_in_the_source_and_fold(project: Project) -> None:
    name = notebook(project)
    _, warnings = project.build("# T")
    page = (project.output / f"{name}.html").read_text()
    assert warnings.count("\n") == warnings.count("isn't included in any toctree")
    assert re.findall(r'id="(cell-22-\w+)"', page) == [f"cell-22-{at}" for at in (2, "parameters", 3, 4, 5)]
    assert re.findall(r'<details class="code"( open="open")?>\s*<summary>(.*?)</summary>', page) == [
        ("", "Cell 2: parameters, by default"), (' open="open"', "Parameters of this run"),
        (' open="open"', "Cell 3"), ("", "Cell 4"), (' open="open"', "Cell 5"),
    ]  # fmt: skip


def test_a_figure_names_its_data_its_drawing_and_its_cell_wherever_it_is_shown(project: Project) -> None:
    name = notebook(project)
    prose, _ = project.build("# T\n\n```{figure} figures/22_lines.svg\n:alt: one line\n\nCaption.\n```\n")
    assert f'href="{name}.html#cell-22-4"' in prose and 'alt="one line"' in prose
    saved = re.findall(r'href="(_downloads/\S+)"', prose)
    assert [Path(path).name for path in saved] == ["22_lines.csv", "22_lines.svg"]
    assert all((project.output / path).exists() for path in saved)
    page = (project.output / f"{name}.html").read_text()
    assert 'href="#cell-22-4"' in page and "Made in cell 4 of notebook 22" in page
    assert 'alt="Plot of score against width; panels: left; series: ours."' in page


def test_a_figure_that_its_cell_did_not_show_is_shown_and_a_table_is_not_a_figure(project: Project) -> None:
    name = notebook(project)
    project.build("# T")
    page = (project.output / f"{name}.html").read_text()
    figure = re.findall("<figure.*?</figure>", page, re.S)[1]
    assert "_images/22_lost.svg" in figure and "kept" not in figure
    assert page.index("kept") < page.index(figure)


def test_a_figure_without_data_warns(project: Project) -> None:
    notebook(project)
    (project.source / "figures" / "22_lines.csv").unlink()
    assert "figures/22_lines.svg: no data beside the figure, wanted figures/22_lines.csv" in project.build("# T")[1]


def test_a_notebook_without_provenance_warns(project: Project) -> None:
    _, warnings = project.build("# Notebook\n", names=(f"executed/{STEM}",))
    assert f"wanted results/{STEM}.provenance.json" in warnings


def test_equations_need_no_network(project: Project) -> None:
    page, warnings = project.build("# T\n\n```{math}\nx^2\n```\n")
    assert warnings == ""
    assert "cdn" not in page and "mathjax/tex-svg-full.js" in page
    assert (project.output / "_static" / "mathjax" / "tex-svg-full.js").stat().st_size > 1e6


# --- the book itself ------------------------------------------------------------------------------------------------


def test_ledger_is_complete_and_valid() -> None:
    entries = tomllib.loads((ROOT / "book" / "claims.toml").read_text())
    claims = evidence.load_claims(ROOT / "book" / "claims.toml")
    sourced = {name: claim for name, claim in claims.items() if claim.source != "this book"}
    assert len(sourced) == 163
    families = {letter: sum(name[0] == letter for name in sourced) for letter in "PASEIFQRG"}
    assert families == {"P": 31, "A": 20, "S": 16, "E": 70, "I": 6, "F": 7, "Q": 4, "R": 6, "G": 3}
    for name, claim in claims.items():
        assert claim.quantity and claim.reported and claim.source, name
        assert claim.notebook in PLANNED, f"{name}: notebook {claim.notebook} is not planned"
        assert not {"statement", "reproduce", "verdict"} & entries[name].keys() or claim.statement, name
        for rule in claim.verdict:
            assert ("margin" if rule["rule"] == "equivalent" else "threshold") in rule, name
        assert not claim.reproduce or claim.reproduce.keys() == {"value", "near", "within"}, name


def test_every_sentence_of_the_conclusions_is_tied_to_a_claim() -> None:
    text = (ROOT / "book" / "conclusions.md").read_text().partition("## Abstract")[2]
    blocks = [block.strip() for block in re.split(r"\n\n|\n(?=\d+\. )", text)]
    blocks = [re.sub(r"\s+", " ", re.sub(r"^\*\*.*?\*\*|^\d+\. ", "", block, flags=re.S)) for block in blocks]
    words = [block for block in blocks if block.strip() and not block.startswith("#")]
    sentences = [s for block in words for s in re.split(r"(?<=[.?]) (?=[A-Z])", block.strip())]
    assert len(sentences) > 20
    assert [s for s in sentences if "{claim}`" not in s] == []


def test_every_work_cited_can_be_opened() -> None:
    entries = re.split(r"\n(?=@)", (ROOT / "book" / "references.bib").read_text())
    assert len(entries) > 30
    assert [e.split("\n")[0] for e in entries if not re.search(r"^ +(doi|url) += \{(10\.|https://)", e, re.M)] == []


def test_every_page_of_the_contents_has_a_source() -> None:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [contents["root"], *(page["file"] for part in contents["parts"] for page in part["chapters"])]
    for page in pages:
        source = f"notebooks/{Path(page).name}.ipynb" if page.startswith("executed/") else f"book/{page}.md"
        assert (ROOT / source).exists(), f"_toc.yml names {page}; wanted {source}"


def test_pages_name_sources_by_what_they_are() -> None:
    """... and not by where somebody kept them."""
    for page in (ROOT / "book").glob("*.md"):
        assert "sources/" not in page.read_text(), page.name


def reference() -> dict[str, dict]:
    """Return the committed results of the reference run, by notebook."""
    paths = [p for p in (ROOT / "book" / "reference").glob("[0-9][0-9]_*.json") if ".provenance" not in p.name]
    return {path.stem: json.loads(path.read_text()) for path in sorted(paths)}


def test_the_reference_run_was_clean_and_judged_by_the_criteria_of_today() -> None:
    claims = evidence.load_claims()
    assert set(reference()) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    for stem, results in reference().items():
        made_by = json.loads((ROOT / "book" / "reference" / f"{stem}.provenance.json").read_text())
        assert results["profile"] == "paper" and made_by["dirty"] is False, stem
        for name, judged in results["claims"].items():
            assert judged["criterion"] == claims[name].criterion, f"{name} changed after the reference run"


def test_prose_expects_the_verdicts_of_the_reference_run() -> None:
    found = {name: judged for results in reference().values() for name, judged in results["claims"].items()}
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    declared = re.compile(r"\{verdict\} (\S+)\s+:expect: ([a-z ]+)")
    expected = [pair for page in pages for pair in declared.findall(page.read_text())]
    expected += [pair for page in pages for pair in re.findall(r"\{claim\}`(\S+) ([a-z ]+)`", page.read_text())]
    assert expected, "the front page declares its verdicts"
    assert [(name, word) for name, word in expected if found[name]["verdict"] != word] == []
