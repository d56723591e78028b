"""The protocol `stability-v1`: its schema, and cases with known answers for any implementation."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from husai import formats
from husai.artifacts import write_tensors
from husai.config import SAEConfig, require
from husai.report.evaluation import evaluate
from husai.saes import SAEBatch

SCHEMA = Path(__file__).parent / "stability-v1.schema.json"
CASES = Path(__file__).parent / "cases"
Case = Mapping[str, Any]


def validate(report: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the place, unless a report is one of `stability-v1`."""
    import jsonschema  # here, so that reports can be made where it is not installed

    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    worst = jsonschema.exceptions.best_match(validator.iter_errors(report))
    if worst is not None:
        raise ValueError(f"report at {worst.json_path} is not of stability-v1; {worst.message[:300]}")


def read_cases() -> dict[str, Case]:
    """Return the reference cases by their names: declared SAEs, activations if any, and known answers."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(CASES.glob("*.json"))}


def check_cases(implementation: Callable[[Case], Mapping[str, Any]] | None = None) -> dict[str, list[str]]:
    """Return, per reference case, what differs from its known answers; empty lists where all agree.

    `implementation` turns a case (its `saes` and `activations`) into a report; by default it is this library's.
    """
    of = implementation or evaluate_case
    return {name: differences(of(case), case["expected"]) for name, case in read_cases().items()}


def evaluate_case(case: Case) -> dict[str, Any]:
    """Return this library's report of declared SAEs, through the folders that it reads."""
    with TemporaryDirectory() as name:
        root = Path(name)
        folders = [root / f"sae_{i}" for i in range(len(case["saes"]))]
        for folder, declared in zip(folders, case["saes"], strict=True):
            formats.write_sae_lens(declared_sae(declared), folder)
        if case["activations"] is None:
            return evaluate(folders)
        write_tensors(root / "acts.safetensors", {"activations": torch.tensor(case["activations"])})
        return evaluate(folders, root / "acts.safetensors")


def declared_sae(declared: Mapping[str, Any]) -> SAEBatch:
    """Return the ReLU SAE that a case declares: W_dec and, unless they are W_dec^T and zeros, W_enc and the biases."""
    rows = torch.tensor(declared["W_dec"])
    encoder = torch.tensor(declared["W_enc"]) if "W_enc" in declared else rows.T.contiguous()
    biases = {"b_enc": torch.zeros(len(rows)), "b_dec": torch.zeros(rows.shape[1])}
    biases |= {key: torch.tensor(declared[key]) for key in biases.keys() & declared.keys()}
    config = SAEConfig("relu", d_sae=len(rows), k=len(rows))
    b_enc, b_dec = biases["b_enc"][None], biases["b_dec"][None]
    return SAEBatch(config, (0,), encoder[None], b_enc, rows[None], b_dec)


def differences(report: Mapping[str, Any], expected: list[Case]) -> list[str]:
    """Return, in words, which of the known answers a report does not give."""
    found = []
    for answer in expected:
        place: Any = report
        if "score" in answer:
            place = _row(report, answer)
        for step in answer["at"].split("/"):
            place = place[int(step) if isinstance(place, list) else step]
        if not _same(place, answer["value"], answer.get("within", 0.0)):
            about = " ".join(str(answer[key]) for key in ("score", "latents", "threshold", "at") if key in answer)
            found.append(f"{about} is {place!r}; wanted {answer['value']!r} within {answer.get('within', 0.0)}")
    return found


def _row(report: Mapping[str, Any], answer: Case) -> Any:
    wanted = (answer["score"], answer["latents"], answer.get("threshold"))
    rows = [row for row in report["scores"] if (row["name"], row["latents"], row["threshold"]) == wanted]
    require(len(rows) == 1, "scores", f"{len(rows)} rows for {wanted}", "one row")
    return rows[0]


def _same(came: Any, wanted: Any, within: float) -> bool:
    if isinstance(wanted, list):
        return isinstance(came, list) and len(came) == len(wanted) and all(
            _same(one, other, within) for one, other in zip(came, wanted, strict=True)
        )  # fmt: skip
    if isinstance(wanted, float) and isinstance(came, int | float):
        return math.isclose(came, wanted, rel_tol=0, abs_tol=max(within, 1e-12))
    return type(came) is type(wanted) and came == wanted
