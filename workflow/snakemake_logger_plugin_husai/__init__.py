"""One line a job: what starts and why, what is done and in how many seconds; the log of what failed."""

import sys
import time
from logging import LogRecord
from pathlib import Path
from textwrap import shorten

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

GOALS = ("all", "followups")
"""Rules that run nothing themselves."""


def why(reason: str) -> str:
    """Return Snakemake's reason for a job; what it says of parameters (see the Snakefile) in words."""
    files, changed, parameters = reason.partition("Params have changed")
    if not changed or files.strip():
        return files.strip("; ") or reason
    edited = "contents " in parameters
    return "files that it stands on changed" if edited else "its criteria in book/claims.toml changed"


class LogHandler(LogHandlerBase):
    """Replaces Snakemake's own output (sixty lines for four jobs)."""

    writes_to_stream = True
    writes_to_file = has_filter = has_formatter = needs_rulegraph = False

    def __post_init__(self) -> None:
        self.jobs: dict[int, tuple[str, float]] = {}
        self.total = self.done = 0

    def emit(self, record: LogRecord) -> None:
        try:  # an exception here would end the logging thread and silence the rest of the run
            text = self.line(record, getattr(record, "event", None))
            if text:
                print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)

    def line(self, record: LogRecord, event: LogEvent | None) -> str:
        """Return what is said about one event of Snakemake; mostly nothing."""
        if event == LogEvent.RUN_INFO:
            self.total = record.stats["total"] - sum(record.stats.get(rule, 0) for rule in GOALS)
        elif event == LogEvent.JOB_INFO and record.rule_name not in GOALS:
            name = next(iter(record.wildcards.values()), record.rule_name)
            self.jobs[record.jobid] = name, time.time()
            return f"{name:36} starts, because: {shorten(why(record.reason), 200, placeholder=' ...')}"
        elif event == LogEvent.JOB_FINISHED and record.job_id in self.jobs:
            name, start = self.jobs[record.job_id]
            self.done += 1
            return f"{name:36} done in {time.time() - start:.0f} s ({self.done} of {self.total})"
        elif event == LogEvent.JOB_ERROR:
            name, start = self.jobs.get(record.jobid, (record.rule_name, time.time()))
            logs = (path for path in map(Path, record.log) if path.exists() and path.stat().st_mtime >= start - 1)
            tails = [f"{path.read_text(errors='replace')[-8000:]}\n(the whole log: {path})" for path in logs]
            return "\n".join([f"{name:36} FAILED {record.rule_msg or ''}", *tails])
        elif event == LogEvent.ERROR or event is None and record.levelname in ("WARNING", "ERROR"):
            return str(record.msg)
        elif event is None and "Nothing to be done" in str(record.msg):
            return "Nothing to be done: every notebook and the book are up to date."
        return ""
