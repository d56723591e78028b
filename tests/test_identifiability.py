"""Planted dictionaries: who finds the truth, who agrees on something else, and what the tables show of it."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from husai import saes
from husai.identifiability import Cell, by_rate, fidelity, known, recipe, shuffled, tables, train
from husai.metrics import recovery
from husai.recipes import converged
from husai.study import Study
from husai.synthetic import SyntheticConfig

CONFIG = SyntheticConfig(d_model=16, features=8, l0=3.0, zipf=0.5)
SEEDS = (0, 1, 2)


def planted(folder, dictionaries, data, step=64, config=None):
    """Return a cell whose SAEs have these dictionaries (linearly independent rows), and encode by their inverse."""
    config = config or converged(len(dictionaries[0]), len(dictionaries[0]), step)
    rows = torch.nn.functional.normalize(torch.stack(dictionaries), dim=-1)
    zeros = {"b_enc": torch.zeros(rows.shape[:2]), "b_dec": torch.zeros(3, rows.shape[2])}
    batch = saes.SAEBatch(config.sae, SEEDS, W_enc=torch.linalg.pinv(rows), W_dec=rows, **zeros)
    saes.save(batch, folder / f"step_{step}")
    return Cell([Study(data.activations, config, SEEDS, folder)], [data])


@pytest.fixture(scope="module")
def data():
    return known(CONFIG, 4000, [0])[0]


def test_seeds_that_hold_the_truth_in_any_order_recover_it_and_agree(tmp_path, data):
    draws = [torch.randperm(8, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    found = planted(tmp_path, [data.truth.atoms[order] for order in draws], data).measured
    for key in ("recovery", "fidelity", "agreement", "shared", "alive"):
        assert found[key].value == pytest.approx(1, abs=1e-5), key
    assert found["beyond_recovery"].value == pytest.approx(0, abs=1e-5)
    assert found["fvu"].value < 1e-6 and found["kappa_N2"] == pytest.approx(1, abs=1e-4)
    assert 0 < found["recovery_N2"].value < 0.9 and found["gap_N2"].low > 0


def test_seeds_that_agree_on_the_middle_of_pairs_agree_beyond_the_truth(tmp_path, data):
    atoms = data.truth.atoms
    middle = torch.nn.functional.normalize(atoms[:4] + atoms[4:], dim=1)
    nearest = float((middle @ atoms.T).amax(1).mean())
    found = planted(tmp_path, [middle] * 3, data).measured
    assert found["agreement"].value == pytest.approx(1, abs=1e-5)
    assert found["fidelity"].value == pytest.approx(nearest, abs=1e-5) and nearest < 0.9
    assert found["beyond_fidelity"].low == pytest.approx(1 - nearest, abs=1e-4)
    assert found["recovery"].value < 0.5, "four latents cannot be partners of eight features"


def test_a_true_part_is_faithful_without_being_complete(data):
    atoms = data.truth.atoms
    assert fidelity(atoms[:4], atoms) == pytest.approx(1) and recovery(atoms[:4], atoms) == pytest.approx(0.5)
    assert fidelity(atoms.repeat(2, 1), atoms) == pytest.approx(1), "two latents may share an atom"
    assert fidelity(-torch.eye(16)[:1], torch.eye(16)[:1]) == -1, "signs count"


def test_features_are_grouped_by_how_often_they_fire(tmp_path, data):
    truth, noise = data.truth, torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    rare = truth.rates < truth.rates.median()
    dictionaries = [torch.where(rare[:, None], noise.roll(seed, 1), truth.atoms) for seed in SEEDS]
    rates, each = by_rate(planted(tmp_path, dictionaries, data), 2)
    assert rates == sorted(rates)
    for key in ("recovery", "agreement"):
        assert each[key][0].value < 0.6 and each[key][-1].value > 0.75, key
    with pytest.raises(ValueError, match="bins is 9"):
        by_rate(planted(tmp_path, dictionaries, data), 9)


def test_a_cell_can_be_judged_at_a_checkpoint_and_only_there(tmp_path, data):
    config = converged(8, 8, 64)
    planted(tmp_path, [torch.randn(8, 16, generator=torch.Generator().manual_seed(s)) for s in SEEDS], data, 0, config)
    cell = planted(tmp_path, [data.truth.atoms] * 3, data, 64, config)
    assert cell.at(0).measured["recovery"].value < 0.7 < cell.measured["recovery"].value
    assert cell.at(0).measured["updates"] == 0
    with pytest.raises(ValueError, match="step is 32"):
        cell.at(32)


def test_tables_keep_rows_columns_and_panels_apart():
    places = product((2, 1), (3, 4), "ab")
    found = {place: {"x": place[0] * 10 + place[1] + (place[2] == "b") / 2} for place in places}
    rows, columns, panels = tables(found, {"x": "title"})["title"]
    assert (rows, columns, list(panels)) == (["2", "1"], ["3", "4"], ["a", "b"])
    assert np.array_equal(panels["b"], [[23.5, 24.5], [13.5, 14.5]])


def test_known_data_are_drawn_by_their_seed_and_lose_their_truth_by_shuffling(data):
    again, other = known(CONFIG, 4000, [0, 1])
    assert torch.equal(again.activations.values, data.activations.values)
    assert not torch.equal(other.truth.atoms, data.truth.atoms)
    mixed = shuffled([data])[0].activations.values
    assert torch.allclose(mixed.T.cov(), data.activations.values.T.cov(), atol=0.05)
    assert not torch.allclose(mixed, data.activations.values)


def test_training_nears_an_easy_truth_for_every_drawing_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path))
    easy = replace(CONFIG, l0=1.0, zipf=0.0)
    cell = train({"easy": (known(easy, 4000, [0, 1, 2]), recipe(8, 1, 512))}, SEEDS)["easy"]
    found = cell.measured
    assert len(cell.studies) == 3 and "models" in found["recovery"].method
    assert found["recovery"].value > found["recovery_N2"].value + 0.2
