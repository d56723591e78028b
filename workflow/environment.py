"""Print the Python that `make` uses: the active environment's where it satisfies the lock, else .venv's."""

import os
import re
import sys
from importlib import metadata
from pathlib import Path


def normal(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, str]:
    """Return {name: version} of a file of `name==version` lines."""
    lines = (line.partition("#")[0].split("==") for line in lock.read_text().splitlines())
    return {normal(pair[0].strip()): pair[1].strip() for pair in lines if len(pair) == 2}


def unmet(prefix: Path, wanted: dict[str, str]) -> list[str]:
    """Return the pins that the environment at `prefix` does not meet; a local label (+cpu) does not count."""
    site = prefix / "lib" / "python3.11" / "site-packages"
    found = metadata.distributions(path=[str(site)])
    have = {normal(d.metadata["Name"]): d.version.partition("+")[0] for d in found}
    return [f"{name}=={version}" for name, version in wanted.items() if have.get(name) != version]


def main() -> None:
    wanted = pins(Path("requirements.lock"))
    for prefix in filter(None, (os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"))):
        missing = unmet(Path(prefix), wanted)
        if not missing:
            return print(Path(prefix, "bin", "python"))
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        print(f"the active environment {prefix} lacks {missing[0]}{more}: using .venv", file=sys.stderr)
    print(".venv/bin/python")


if __name__ == "__main__":
    main()
