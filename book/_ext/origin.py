"""Sphinx extension: every page says where its numbers come from.

Under the title of a notebook: profile, commit, machine, time, with all parameters folded, and its files to download. At
the foot of any other page: the commit of its text, and the runs whose results it quotes.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cells import Folded
from docutils import nodes
from drawn import between
from results import EXECUTED, download, link, logger
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from husai import evidence, provenance

LISTED = 12
"""So many notebooks are named one by one; of more, only the number is given."""


def state(app: Sphinx, doctree: nodes.document) -> None:
    """Put the origin of a notebook under its title, that of another page at its foot."""
    page = next(iter(doctree.findall(nodes.section)), doctree)
    if app.env.docname.startswith(EXECUTED):
        title = page.first_child_matching_class(nodes.title)
        page.insert(0 if title is None else title + 1, of_notebook(app.env))
    elif page is not doctree:
        page += nodes.container("", *of_text(app.env), classes=["origin"])


def of_notebook(env: BuildEnvironment) -> list[nodes.Node]:
    """Return what made a notebook's results, and its downloads; a warning where nothing is recorded."""
    name = env.docname.removeprefix(EXECUTED)
    path = Path(env.srcdir) / "results" / f"{name}.provenance.json"
    if not path.exists():
        logger.warning(f"{env.docname}: no provenance, wanted results/{path.name}", location=env.docname)
        return []
    env.note_dependency(str(path))
    found = json.loads(path.read_text())
    parameters = found.get("parameters", {})
    threads = f", {found['threads']} threads" if "threads" in found else ""
    facts = [
        f"{parameters.get('profile', 'lab')} profile",
        f"commit {commit(found)}",
        found.get("machine", "") + threads,
        f"{evidence.format_value(found['seconds'])} s" if "seconds" in found else "",
        found.get("finished", "").replace("T", " ").replace("Z", " UTC"),
    ]
    files = [
        nodes.reference("", "Executed notebook", refuri=f"../_sources/{env.docname}.ipynb", classes=["download"]),
        *(
            download(env, f"results/{name}{end}.json", words)
            for end, words in (("", "Results (JSON)"), (".provenance", "Provenance (JSON)"))
            if (path.parent / f"{name}{end}.json").exists()
        ),
    ]
    folded = Folded(summary="Parameters, inputs and versions", classes=["origin-fields"], open=False)
    folded += fields(found)
    line = nodes.paragraph("", " · ".join(filter(None, facts)))
    return [nodes.container("", line, folded, nodes.paragraph("", "", *between(*files)), classes=["origin"])]


def fields(found: Mapping[str, Any]) -> nodes.field_list:
    """Return everything that was recorded about a run."""
    shown = nodes.field_list(classes=["provenance"])
    for name, value in {**found, "commit": commit(found, 40)}.items():
        if name != "dirty":
            body = nodes.paragraph("", "", *described(value))
            shown += nodes.field("", nodes.field_name(text=name.replace("_", " ")), nodes.field_body("", body))
    return shown


def described(value: Any) -> Iterator[nodes.Node]:
    """Yield a recorded value as words: mappings as `name=value`, lists with commas."""
    if isinstance(value, Mapping):
        value = [f"{name}={entry}" for name, entry in value.items()] or "none"
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        yield from [nodes.Text(", ")] * bool(index)
        yield nodes.literal(text=str(item)) if isinstance(value, list) else nodes.Text(evidence.format_value(item))


def commit(found: Mapping[str, Any], digits: int = 7) -> str:
    """Return the commit that ran, and whether the files differed from it."""
    return (found.get("commit", "")[:digits] or "unknown") + " with uncommitted changes" * bool(found.get("dirty"))


@functools.cache
def of_build() -> str:
    """Return the commit of the text."""
    return commit(provenance.manifest({}, {}, 0.0))


def of_text(env: BuildEnvironment) -> list[nodes.Node]:
    """Return a paragraph about the text, and about every run that the page quotes."""
    paths = {Path(path) for path in env.dependencies[env.docname] if str(path).endswith(".json")}
    quoted = {path.stem: path for path in sorted(paths) if path.parent.name == "results"}
    benches = any(path.parent.name == "reference" and path.stem == "speed" for path in paths)
    runs: dict[str, list[str]] = {}
    for name, path in quoted.items():
        record = path.with_name(f"{name}.provenance.json")
        if not name.endswith(".provenance"):
            found = json.loads(record.read_text()) if record.exists() else {}
            profile = json.loads(path.read_text()).get("profile", "lab")
            runs.setdefault(f"{profile} profile, commit {commit(found)}", []).append(name)
    lines = [
        nodes.paragraph(text=f"Text of commit {of_build()}." + " It quotes no results." * (not runs and not benches))
    ]
    for run, names in runs.items():
        which = [link(env, EXECUTED + name, nodes.inline(text=name[:2])) for name in names]
        words = [node for each in which for node in (nodes.Text(", "), each)][1:]
        many = [nodes.Text(f"{len(names)} notebooks")]
        kind = "" if len(names) > LISTED else "notebook " if len(names) == 1 else "notebooks "
        lead = nodes.Text(f"Quotes the results of {kind}")
        lines.append(nodes.paragraph("", "", lead, *(words if len(names) <= LISTED else many), nodes.Text(f": {run}.")))
    if benches:
        lines.append(
            nodes.paragraph(
                "", "", nodes.Text("Quotes the benchmarks: "), download(env, "reference/speed.json", "JSON")
            )
        )
    return lines


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", state, priority=700)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
