"""Draw the figure of the benchmark page from what `make bench` measured."""

import json
import sys
from pathlib import Path

from husai import plots

if __name__ == "__main__":
    source = Path(sys.argv[1])
    figure = plots.cost_growth(json.loads(source.read_text())["growth"])
    figure.savefig(source.with_suffix(".svg"), metadata={"Date": None})
