"""Whether anybody's SAEs have the same features: one JSON report, `stability-v1`, of two or more folders."""

from husai.report.evaluation import evaluate
from husai.report.protocol import SCHEMA, check_cases, validate

__all__ = ["SCHEMA", "check_cases", "evaluate", "validate"]
