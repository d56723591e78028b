"""`make report`: what it writes, and one line without a traceback for whatever is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from husai import formats
from husai.config import SAEConfig
from husai.report import protocol
from husai.saes import SAEBatch

ROOT = Path(__file__).parents[1]


def report(out: Path, **given: str) -> subprocess.CompletedProcess[str]:
    alone = {key: value for key, value in os.environ.items() if key not in ("SAES", "ACTS", "OUT", "RECOMMEND")}
    command = [sys.executable, ROOT / "workflow" / "report.py"]
    return subprocess.run(command, env=alone | {"OUT": str(out)} | given, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three SAEs whose names have spaces in them."""
    draw, names = torch.Generator().manual_seed(0), []
    for seed in range(3):
        rows = torch.nn.functional.normalize(torch.randn(1, 24, 8, generator=draw), dim=2)
        config = SAEConfig(d_sae=24, k=3)
        sae = SAEBatch(config, (seed,), rows.mT.contiguous(), torch.zeros(1, 24), rows, torch.zeros(1, 8))
        names.append(tmp_path / f"seed {seed}")
        formats.write_sae_lens(sae, names[-1])
    return names


@pytest.mark.parametrize("activations", [True, False])
def test_a_report_is_written_and_said_in_two_lines(folders: list[Path], tmp_path: Path, activations: bool) -> None:
    acts = tmp_path / "acts.safetensors"
    save_file({"x": torch.randn(600, 8, generator=torch.Generator().manual_seed(1))}, acts)
    saes = " ".join(f"'{folder}'" for folder in folders)
    done = report(tmp_path / "out", SAES=saes, ACTS=str(acts) if activations else "")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("3 SAEs: mean max cosine, ")
    assert done.stdout.splitlines()[1:] == [f"The report: {tmp_path / 'out' / 'index.html'}"]
    found = json.loads((tmp_path / "out" / "stability-v1.json").read_text())
    protocol.validate(found)
    assert ("value" in found["activations"]) is not activations
    assert (tmp_path / "out" / "features.parquet").stat().st_size > 0


@pytest.mark.parametrize(
    "saes, acts, status, wanted",
    [
        ("", "", 2, "SAES names no folder"),
        ("'seed 0", "", 2, "SAES cannot be read"),
        ("{0}", "", 1, "two"),
        ("{0} nowhere", "", 1, "nowhere"),
        ("{0} {1}", "{0}", 1, ""),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    folders: list[Path], tmp_path: Path, saes: str, acts: str, status: int, wanted: str
) -> None:
    quoted = [f"'{folder}'" for folder in folders]
    done = report(tmp_path / "out", SAES=saes.format(*quoted), ACTS=acts.format(*folders))
    assert done.returncode == status and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and wanted in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_said_too(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = report(tmp_path / "file" / "out", SAES=" ".join(f"'{folder}'" for folder in folders))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
