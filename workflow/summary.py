"""Print what a run found: a line a notebook, with its seconds and how its claims were judged.

python workflow/summary.py book/results
"""

import json
import sys
from collections import Counter
from pathlib import Path

COLUMNS = ("notebook", "seconds", "supported", "refuted", "inconclusive", "reproduced")


def rows(results: Path) -> list[tuple[str, ...]]:
    """Return the table's rows, a last one with the sums; `reproduced` counts yes of those that were asked."""
    found, totals = [], Counter()
    for path in sorted(results.glob("[0-9][0-9]_*.provenance.json")):
        stem = path.name.removesuffix(".provenance.json")
        claims = json.loads((results / f"{stem}.json").read_text()).get("claims", {}).values()
        counts = Counter(claim["verdict"] for claim in claims) + Counter(f"repeat {c['reproduced']}" for c in claims)
        counts["seconds"] = round(json.loads(path.read_text()).get("seconds", 0))
        totals += counts
        found.append((stem, *cells(counts)))
    return [*found, ("all", *cells(totals))]


def cells(counts: Counter) -> tuple[str, ...]:
    """Return the numbers of one row as text."""
    asked = counts["repeat yes"] + counts["repeat no"]
    return (*(str(counts[name]) for name in COLUMNS[1:-1]), f"{counts['repeat yes']} of {asked}")


def main() -> None:
    table = [COLUMNS, *rows(Path(sys.argv[1]))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *numbers in table:
        print("  ".join([name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]))


if __name__ == "__main__":
    main()
