"""Which candidate may be released: selection by configuration, and gates that fail unless shown to hold."""

from husai.gate.decisions import Decision, Evidence, Outcome, Threshold, decide, exit_status, load, ranking
from husai.gate.selection import Candidate, Metric, Score, front, over_seeds, summarised

__all__ = [
    "Candidate", "Decision", "Evidence", "Metric", "Outcome", "Score", "Threshold", "decide", "exit_status",
    "front", "load", "over_seeds", "ranking", "summarised",
]  # fmt: skip
