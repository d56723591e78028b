"""The round trip that notebook 63 makes through the real sae_lens, on folders of our own writing."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sae_lens")
publish = pytest.importorskip("husai.pairs.publish")

from husai import formats  # noqa: E402
from husai.config import SAEConfig  # noqa: E402
from husai.saes import SAEBatch  # noqa: E402

D, F, K = 24, 64, 5
X = torch.randn(100, D, generator=torch.Generator().manual_seed(1)) * 2


def test_published_folders_compute_the_same_in_the_real_library(tmp_path):
    draw = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(1, F, D, generator=draw), dim=-1)
    one = SAEBatch(
        SAEConfig("topk", F, K), (3,), W_dec.mT.contiguous(), torch.randn(1, F, generator=draw) / 10, W_dec,
        torch.randn(1, D, generator=draw),
    )  # fmt: skip
    folders = [tmp_path / "adhd_L2_hook_resid_post", tmp_path / "standard_L0_hook_resid_post"]
    for folder in folders:
        formats.write_sae_lens(one, folder, {"hook_name": "blocks.2.hook_resid_post", "hook_layer": 2})
    found = publish.round_trip({folder: X.clone() for folder in folders}, python=Path(sys.executable))
    assert found == ("run", 2, 2, 0.0, 0.0)
