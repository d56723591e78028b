"""Report on anybody's SAEs: `make report SAES="dir1 dir2 dir3" ACTS=acts.safetensors OUT=folder`.

SAES, ACTS, OUT and RECOMMEND are in the environment, where make puts what its command line gives. Ends with 2 when SAES
names nothing, with 1 when something that it names cannot be compared or OUT cannot be written.
"""

import os
import shlex
import sys
from pathlib import Path

USAGE = "report: SAES names no folder; two or more are wanted: make report SAES='dir1 dir2 dir3' ACTS=acts.safetensors"


def main() -> int:
    """Write the report and say where it lies; what is wrong is said in one line."""
    try:
        folders = shlex.split(os.environ.get("SAES", ""))
    except ValueError as error:  # a quotation that does not end
        return complain(f"report: SAES cannot be read ({error})", 2)
    if not folders:
        return complain(USAGE, 2)
    from husai.report import evaluate, page, words  # torch takes seconds, a forgotten name should not

    try:
        found = evaluate(folders, os.environ.get("ACTS") or None, recommend=bool(os.environ.get("RECOMMEND")))
        written = page.write(found, Path(os.environ.get("OUT") or "_build/report"))
    except (ValueError, OSError) as error:
        return complain(f"report: {' '.join(str(error).split())}", 1)
    print(f"{words.summary(found)}\nThe report: {written}")
    return 0


def complain(line: str, status: int) -> int:
    """Say what is wrong and return the exit status."""
    print(line, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
