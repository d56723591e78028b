"""Model cards: the README of a folder that is published, every number from results, none by hand."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from husai.config import require
from husai.evidence import format_value

NEEDED = ("model_name", "hook_name", "seed", "model_seed")
LICENCE = "mit"


def card(
    title: str,
    about: Mapping[str, Any],
    numbers: Mapping[str, Any],
    gates: Mapping[str, bool],
    *,
    use: str = "",
    limits: str = "",
    licence: str = LICENCE,
) -> str:
    """Return a model card: what it is (`about`), what was measured, the gates, how to load it, what it is not for.

    `about` says at least `NEEDED`; ValueError names what it lacks. Estimates are shown with their intervals. A gate
    that fails is printed as FAIL, and the first lines say so: a card never hides it.
    """
    missing = [name for name in NEEDED if name not in about]
    require(not missing, "about", sorted(about), f"also {missing}")
    failed = [name for name, passed in gates.items() if not passed]
    lines = ["---", f"license: {licence}", "library_name: sae_lens", "tags:", "- sparse-autoencoder", "---", ""]
    lines += [f"# {title}", ""]
    if failed:
        lines += [
            f"**Fails its quality gates: {', '.join(failed)}.** Nothing that is found with it should be used.",
            "",
        ]
    lines += _table(("", ""), _rows(about))
    lines += ["", "## Measured on held-out tokens", "", *_table(("quantity", "value"), _rows(numbers)), ""]
    states = [(name, "pass" if passed else "FAIL") for name, passed in gates.items()]
    lines += ["## Gates, written before the run", "", *_table(("gate", "state"), states), ""]
    lines += ["## Use", "", "```python", use, "```", ""] if use else []
    lines += ["## Limits", "", limits, ""] if limits else []
    lines += ["## Licence", "", f"{licence.upper()}: weights and card.", ""]
    return "\n".join(lines)


def write(folder: Path, text: str) -> Path:
    """Write the card as the folder's README.md, under a temporary name that is then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".README.md.{os.getpid()}"
    temporary.write_text(text)
    os.replace(temporary, folder / "README.md")
    return folder / "README.md"


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), format_value(value)) for name, value in values.items()]


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
