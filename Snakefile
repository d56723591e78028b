"""The notebooks' workflow: one job a notebook, then the book. `make paper` runs it; nothing else needs to."""

import fcntl
import functools
import json
import os
import shlex
import time
import tomllib
from pathlib import Path

from snakemake.exceptions import WorkflowError

import harness
import runner

PROFILE = config.get("profile", "paper")
BUILD = f"_build/{PROFILE}"
OUT, SITE = ("book", ".") if PROFILE == "paper" else (f"{BUILD}/book", BUILD)
INDEX = os.path.normpath(f"{SITE}/_build/html/index.html")
STEMS = sorted(path.stem for path in Path("notebooks").glob("[0-9][0-9]_*.ipynb"))
GATES = {"21": "13", "22": "13"}  # a notebook does not run before its controls have passed
MODELS = "11"  # trains the models of addition, on which most others stand
# what a notebook decides by or writes with, beside its claims and the library's modules
DECLARED = {
    "75": ["book/gates.toml", "book/selection.toml"],
    "81": [f"husai/report/{name}" for name in ("page.html", "page.css", "page.js", "stability-v1.schema.json")],
}
# The seven follow-up experiments of the stability paper: one-layer ground truth, subspaces, effective rank as a
# predictor, contrastive alignment, interventions, pinning, a language model.
FOLLOWUPS = ["35", "51", "36", "43", "52", "44", "61"]
GENERATED = ("executed", "results", "figures", "saes", "published")
PROSE = [
    str(path) for path in sorted(Path("book").rglob("*"))
    if path.is_file() and path.parts[1] not in GENERATED and "__pycache__" not in path.parts
]


def date_back(folders):
    """A file of tomorrow (a clock was ahead) would be newer than all that is made from it: date it now."""
    now = time.time()
    for path in (path for folder in folders for path in [*folder.glob("*"), *folder.glob("*/*")]):
        if path.is_file() and path.stat().st_mtime > now:
            os.utime(path, (now, now))


date_back([Path(name) for name in (".", "notebooks", "husai", "book", OUT, f"{SITE}/_build/html")])


def criteria(stem):
    """The claims that a notebook judges: a changed criterion reruns that notebook, not all of them."""
    ledger = Path("book/claims.toml")
    claims = tomllib.loads(ledger.read_text()) if ledger.exists() else {}
    rules = [[c.get(field) for field in ("statement", "reproduce", "verdict")] for c in claims.values()
             if c["notebook"] == stem[:2]]
    return json.dumps(rules)


@functools.cache
def foundations(stem):
    """The files that a notebook stands on, but for results of others. By their contents, kept as a parameter, a run
    knows of a change that their dates hide: a clock may have jumped. (One that asks for `input` would not be kept.)"""
    source = Path(f"notebooks/{stem}.ipynb")
    declared = [*Path("book").glob("quality.toml"), *DECLARED.get(stem[:2], [])]
    return [str(path) for path in (source, f"notebooks/{PROFILE}/{stem}.yml", *runner.library(source), *declared)]


def priority(stem):
    """The longest start first, by the reference run. Before them comes the notebook that trains the models of addition,
    and those that need no such model: all others would wait for it."""
    kept = Path(f"book/reference/{stem}.provenance.json")
    seconds = round(json.loads(kept.read_text())["seconds"]) if kept.exists() else 0
    free = "husai/grokking.py" not in foundations(stem)
    return 100_000 if stem[:2] == MODELS else 10_000 * free + seconds


def product(kind, stems=STEMS):
    return [f"{OUT}/{kind}".replace("*", stem) for stem in stems]


wildcard_constraints:
    stem=r"\d\d_\w+",


localrules: all, followups, book


rule all:
    input:
        product("executed/*.ipynb"), product("results/*.json"), product("results/*.provenance.json"), INDEX,


rule followups:
    input:
        product("executed/*.ipynb", [stem for stem in STEMS if stem[:2] in FOLLOWUPS]),


rule notebook:
    input:
        lambda w: foundations(w.stem),
        controls=lambda w: product("results/*.json", [s for s in STEMS if s[:2] == GATES.get(w.stem[:2])]),
    output:
        OUT + "/executed/{stem}.ipynb",
        OUT + "/results/{stem}.json",
        OUT + "/results/{stem}.provenance.json",
    params:
        criteria=lambda w: criteria(w.stem),
        contents=lambda w: runner.contents(foundations(w.stem)),
    log:
        BUILD + "/logs/{stem}.log",
    priority: lambda w: priority(w.stem)
    threads: 2
    shell:  # two threads also where fewer or more are free: the values depend on it
        "OMP_NUM_THREADS=2 NUMBA_NUM_THREADS=2 python workflow/alone.py {BUILD}/locks/{wildcards.stem} "
        "python workflow/runner.py notebooks/{wildcards.stem}.ipynb notebooks/{PROFILE}/{wildcards.stem}.yml {OUT} {BUILD} > {log} 2>&1"


rule book:
    input:
        product("executed/*.ipynb"), product("results/*.json"), PROSE, "_config.yml", "_toc.yml",
    output:
        INDEX,
    params:
        contents=runner.contents([*PROSE, "_config.yml", "_toc.yml"]),
    log:
        BUILD + "/logs/book.log",
    run:
        if OUT != "book":  # the same prose, other results
            for link in filter(Path.is_symlink, Path(OUT).iterdir()):
                link.unlink()
            for path in Path("book").iterdir():
                if path.name not in GENERATED:
                    Path(OUT, path.name).symlink_to(os.path.relpath(path, OUT))
        made = f"jupyter-book build {OUT} --config _config.yml --toc $PWD/_toc.yml --path-output {SITE} --all -W -n --keep-going"
        started, status = time.time(), 1
        try:
            shell(f"python workflow/alone.py {BUILD}/locks/book {made} > {log} 2>&1")
            status = 0
        finally:
            harness.command(Path(BUILD), "book", shlex.split(made), started, status)


onstart:
    Path(BUILD).mkdir(parents=True, exist_ok=True)
    globals()["lock"] = open(f"{BUILD}/lock", "a+")  # held until this process ends, however it ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise WorkflowError(f"another run of this profile is under way in this folder (process {lock.read()})")
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    harness.preflight(Path(BUILD))
    for path in sorted(Path("notebooks", PROFILE).glob("*.yml")):
        try:
            runner.refuse_unknown(Path(f"notebooks/{path.stem}.ipynb"), runner.read_parameters(path), path)
        except ValueError as error:
            raise WorkflowError(str(error))
