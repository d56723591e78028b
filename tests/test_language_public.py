"""Others' SAEs: read from disk, scored as their authors score them, or said to be missing."""

from pathlib import Path

import pytest
import torch

from husai import formats, saes
from husai.config import SAEConfig
from husai.language import public


def written(folder: Path, seed: int, rows: torch.Tensor) -> str:
    weights = rows.T[None], torch.zeros(1, len(rows)), rows[None], torch.zeros(1, 16)
    sae = saes.SAEBatch(SAEConfig(d_sae=len(rows), k=2), (seed,), *weights)
    formats.write_sae_lens(sae, folder)
    return str(folder)


def test_equal_dictionaries_in_another_order_agree_and_half_shared_ones_by_half(tmp_path: Path) -> None:
    basis = torch.eye(16)
    same = [written(tmp_path / f"same{i}", i, basis[torch.randperm(8)]) for i in range(3)]
    assert {name: round(one.value, 5) for name, one in public.agreement(same).items()} == dict.fromkeys(
        public.METRICS, 1
    )
    turned = torch.linalg.qr(torch.randn(4, 4)).Q
    blocks = [basis[4:8], basis[8:12], basis[12:16]]
    half = [written(tmp_path / f"half{i}", i, torch.cat([basis[:4], turned @ one])) for i, one in enumerate(blocks)]
    found = public.agreement(half)
    assert found["shared_fraction"].value == pytest.approx(0.5) and found["hungarian_mcc"].value == pytest.approx(0.5)


def test_none_asked_for_is_none_and_missing_ones_are_named(tmp_path: Path) -> None:
    assert public.agreement([]) is None
    with pytest.raises(ValueError, match="at least 3 SAEs"):
        public.agreement(["a", "b"])
    with pytest.raises(ValueError, match=r"names holds 'someone/saes/seed0'; wanted downloaded SAEs: put the files of"):
        public.agreement([f"someone/saes/seed{i}" for i in range(3)])
