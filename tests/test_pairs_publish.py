"""Folders in the published layout, and a round trip that says when it was not made."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from husai import formats, recipes, study
from husai.activations import split
from husai.pairs import cells, publish


@pytest.fixture
def one():
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    acts = split(x, 0, "noise")
    return study.run({"one": (acts, recipes.converged(16, 3, 8))}, [0, 1, 2])["one"]


def written(tmp_path, one):
    good = {"explained variance": 0.9, "L0": 3.0, "dead share": 0.0, "rare share": 0.0, "CE recovered": 0.97}
    measured = {key: np.full((1, 3), value) for key, value in good.items()}
    measured["dead share"][0, 1] = 0.5
    return publish.write(tmp_path, ("adhd", 2), [one], [7], measured, "smoke")


def test_every_sae_gets_a_folder_that_reads_back_and_a_card_of_its_own(tmp_path, one):
    found = written(tmp_path, one)
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == [f"model_7/seed_{s}/adhd_L2_hook_resid_post" for s in range(3)]
    for s, (folder, x) in enumerate(found.items()):
        again = formats.read(folder)
        assert again.seeds == (s,) and torch.equal(again.encode(x), one.saes[s].encode(x))
        assert formats.metadata(folder)["hook_name"] == "blocks.2.hook_resid_post"
        assert {path.name for path in folder.iterdir()} == {"README.md", "cfg.json", "sae_weights.safetensors"}
    cards = [(folder / "README.md").read_text() for folder in found]
    assert ["FAIL" in card for card in cards] == [False, True, False]
    assert "| dead share | 0.500 |" in cards[1] and "| seed | 1 |" in cards[1] and "| model seed | 7 |" in cards[1]


def test_a_round_trip_that_is_not_made_says_why(tmp_path, one):
    found = written(tmp_path, one)
    assert publish.round_trip(found, wanted=False).state == "not run: this profile leaves it out"
    away = publish.round_trip(found, python=tmp_path / "nowhere")
    assert "make interop" in away.state and away.folders == 0
    with pytest.raises(ValueError, match="at least one folder"):
        publish.round_trip({})


def test_what_the_other_library_computes_is_compared_and_its_refusal_is_an_error(tmp_path, one, monkeypatch):
    """A stand-in for sae_lens reads the folder by the format's equations; the real one is tested in tests/interop."""
    found = written(tmp_path, one)
    stand_in = tmp_path / "lens" / "sae_lens.py"
    stand_in.parent.mkdir()
    stand_in.write_text(
        "import json, torch\n"
        "from safetensors.torch import load_file\n"
        "class SAE:\n"
        "    @staticmethod\n"
        "    def load_from_disk(folder):\n"
        "        one = SAE()\n"
        "        one.k = json.load(open(folder + '/cfg.json'))['k']\n"
        "        one.w = load_file(folder + '/sae_weights.safetensors')\n"
        "        return one\n"
        "    def encode(self, x):\n"
        "        best = ((x - self.w['b_dec']) @ self.w['W_enc'] + self.w['b_enc']).topk(self.k)\n"
        "        return torch.zeros(len(x), len(self.w['b_enc'])).scatter(1, best.indices, best.values.relu())\n"
        "    def decode(self, z):\n"
        "        return z @ self.w['W_dec'] + self.w['b_dec'] + SHIFT\n"
        "SHIFT = 0.0\n"
    )
    script = f"import sys\nsys.path.insert(0, {str(stand_in.parent)!r})\n" + publish.SCRIPT
    monkeypatch.setattr(publish, "SCRIPT", script)
    same = publish.round_trip(found, python=Path(sys.executable))
    assert (same.state, same.folders) == ("run", 3) and same.latents < 1e-5 and same.outputs < 1e-5
    stand_in.write_text(stand_in.read_text().replace("SHIFT = 0.0", "SHIFT = 0.25"))
    shifted = publish.round_trip(found, python=Path(sys.executable))
    assert shifted.equal == 0 and shifted.latents < 1e-5 and shifted.outputs == pytest.approx(0.25, abs=1e-3)
    (next(iter(found)) / "cfg.json").write_text("{}")
    with pytest.raises(ValueError, match="ones that sae_lens reads: KeyError"):
        publish.round_trip(found, python=Path(sys.executable))
    assert cells.name(("adhd", 2)) in next(iter(found)).name
