"""What happens outside this machine: the workflows of GitHub, what Binder installs, the links to Binder and Colab."""

import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from test_book import STEM, Project, project

yaml = pytest.importorskip("yaml", reason="the book's packages are not installed")

__all__ = ["project"]
ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: yaml.load(path.read_text(), yaml.BaseLoader) for path in (ROOT / ".github/workflows").iterdir()}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, key, job) for name, flow in WORKFLOWS.items() for key, job in flow["jobs"].items()]


# --- workflows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, key, job", jobs(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_job_ends_may_do_little_and_runs_what_exists(name: str, key: str, job: dict[str, Any]) -> None:
    assert int(job["timeout-minutes"]) <= 240
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    written = {what for what, mode in job.get("permissions", {}).items() if mode == "write"}
    assert written <= ({"pages", "id-token"} if key == "deploy" else set())
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w/-]+@v\d+", step["uses"]), "of GitHub's own, and pinned"
            continue
        for command in re.split(r"&&|\n", step["run"]):
            program, *arguments = command.split()
            if program == "make":
                assert set(arguments) <= TARGETS, command
            elif "/" in program:
                assert os.access(ROOT / program, os.X_OK), command


def test_a_push_runs_what_the_readme_says_within_its_time() -> None:
    test = WORKFLOWS["test"]
    assert {"push", "pull_request"} <= test["on"].keys()
    assert int(test["jobs"]["test"]["timeout-minutes"]) <= 45
    assert any(step.get("run") == ".ci/run" for step in test["jobs"]["test"]["steps"])
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_paper_is_published_after_the_tests_passed() -> None:
    publish = WORKFLOWS["publish"]
    after = publish["on"]["workflow_run"]
    assert after == {"workflows": [WORKFLOWS["test"]["name"]], "types": ["completed"], "branches": ["main"]}
    assert "workflow_dispatch" in publish["on"]
    build, deploy = publish["jobs"]["build"], publish["jobs"]["deploy"]
    assert "conclusion == 'success'" in build["if"] and deploy["needs"] == "build"
    runs = [step.get("run") for step in build["steps"]]
    assert runs.index("make env-evals") < runs.index("make paper") < runs.index("make pdf")
    uses = {step["uses"].partition("@")[0]: step for step in build["steps"] if "uses" in step}
    assert uses["actions/upload-pages-artifact"]["with"]["path"] == "_build/html"
    assert uses["actions/cache/save"]["with"]["path"] == uses["actions/cache/restore"]["with"]["path"] == "artifacts"
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}


# --- Binder and Colab -----------------------------------------------------------------------------------------------


def test_binder_installs_the_lock_and_the_library() -> None:
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    named = [line.split()[1] for line in lines if line.startswith(("-r", "-c"))]
    assert [(ROOT / "binder" / name).resolve() for name in named] == [
        ROOT / "constraints.txt", ROOT / "requirements.lock"
    ]  # fmt: skip
    assert (ROOT / "binder" / "runtime.txt").read_text() == "python-3.11\n"
    assert all(os.access(ROOT / "binder" / name, os.X_OK) for name in ("postBuild", "start"))


@pytest.fixture
def launch(project: Project, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the extension, where nobody says what the repository is called."""
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    import launch

    return launch


def test_every_page_of_a_notebook_links_to_its_source(launch: Any) -> None:
    pages = re.findall(r"file: (executed/\S+)", (ROOT / "_toc.yml").read_text())
    assert len(pages) == len(list((ROOT / "notebooks").glob("*.ipynb")))
    for page in pages:
        found = launch.links("https://github.com/someone/husai", launch.source(page))
        (path,) = parse_qs(urlparse(found["Binder"]).query)["urlpath"]
        assert found["Binder"].startswith("https://mybinder.org/v2/gh/someone/husai/main?")
        assert (ROOT / path.removeprefix("lab/tree/")).is_file()
        assert Path(path).stem == Path(page).name
        inside = found["Colab"].removeprefix("https://colab.research.google.com/github/someone/husai/blob/main/")
        assert (ROOT / inside).is_file()
    assert launch.source("claims") == launch.source("executed/99_none") == ""


def test_another_host_has_binder_alone(launch: Any) -> None:
    found = launch.links("https://example.org/a/b", "notebooks/x.ipynb")
    assert found == {
        "Binder": "https://mybinder.org/v2/git/https%3A%2F%2Fexample.org%2Fa%2Fb/main?urlpath=lab/tree/notebooks/x.ipynb"
    }


def test_the_address_comes_from_the_citation_or_from_who_builds(
    launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    stated = yaml.safe_load((tmp_path / "CITATION.cff").read_text()).get("repository-code", "")
    assert launch.repository(tmp_path) == stated
    (tmp_path / "CITATION.cff").write_text("title: t\n")
    assert launch.repository(tmp_path) == ""
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/fork")
    assert launch.repository(tmp_path) == "https://github.com/someone/fork"
    (tmp_path / "CITATION.cff").write_text("repository-code: https://github.com/group/husai.git\n")
    assert launch.repository(tmp_path) == "https://github.com/group/husai"


@pytest.mark.parametrize("address", ["", "https://github.com/someone/husai"])
def test_buttons_are_shown_where_the_address_is_known(
    launch: Any, project: Project, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(launch, "repository", lambda: address)
    (project.source / "results" / f"{STEM}.provenance.json").write_text("{}")
    texts, names = ["# N\n\n## S\n", "# H\n\n```{launch}\n```\n"], (f"executed/{STEM}", "help")
    page, warnings = project.build(*texts, names=names, theme="sphinx_book_theme")
    assert warnings == ""
    assert (f"{address}/main?urlpath=lab/tree/notebooks/{STEM}.ipynb".removeprefix("https://github.com/") in page) == (
        address != ""
    )
    assert ("mybinder" in page) == ("colab" in page) == (address != "")
    told = (project.output / "help.html").read_text()
    assert ("does not know the address" in told) == (address == "")
    assert (f"git clone -q {address} husai" in told) == (address != "")
    assert "mybinder" not in told, "only the page of a notebook opens one"


# --- the PDF --------------------------------------------------------------------------------------------------------


def test_the_pdf_is_offered_only_by_the_build_that_it_was_made_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project.source.parent / "made.pdf"
    made.write_bytes(b"%PDF-1.4")
    monkeypatch.setenv("HUSAI_PDF", str(made))
    page, warnings = project.build("# T", theme="sphinx_book_theme")
    assert warnings == "" and 'href="husai.pdf"' in page
    assert (project.output / "husai.pdf").read_bytes() == b"%PDF-1.4"
    monkeypatch.delenv("HUSAI_PDF")
    page, _ = project.build("# T", theme="sphinx_book_theme")
    assert "husai.pdf" not in page and not (project.output / "husai.pdf").exists()


PRINTED = """<article><section><h1>The title</h1><table><tr>{cells}</tr></table><a href="search.html">s</a>
<a href="#there">t</a><h2 id="there">A section</h2><p>{words}</p></section></article>"""


def test_a_page_becomes_a_pdf_with_an_outline(tmp_path: Path) -> None:
    import pdf

    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no Chromium on this machine: install Debian's package `chromium`")
    pytest.importorskip("playwright", reason="the Python package playwright is not installed")
    page = PRINTED.format(cells="<td>wide</td>" * 200, words="word " * 4000)
    (tmp_path / "index.html").write_text(page)
    pdf.printed(tmp_path, tmp_path / "x.pdf", pdf.chromium())
    found = (tmp_path / "x.pdf").read_bytes()
    assert found.startswith(b"%PDF") and found.count(b"/Type /Page\n") > 2
    assert b"/Outlines" in found and b"(The title)" in found and b"(A section)" in found
    assert b"search.html" not in found and b"/Dest" in found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "x.pdf"]


def test_without_chromium_or_notebooks_the_pdf_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pdf

    with pytest.raises(SystemExit, match="run `make paper` first"):
        pdf.single(tmp_path, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="make pdf prints the book with Chromium; none of chromium, .* is on the PATH"):
        pdf.chromium()
