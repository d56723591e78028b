"""Ensembles: groups stay apart, and every method costs the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from centroids_planted import D, K, noisy, planted

from husai import artifacts, centroids, ensembles, study
from husai.activations import Activations, split
from husai.config import Objective
from husai.identifiability import recipe
from husai.nulls import covariance_root
from husai.tasks import sparse_dictionary

WIDTH = 24
TOTAL = 64


@pytest.fixture(scope="module")
def data() -> Activations:
    """Return 900 activations of 24 atoms in 16 dimensions, three at a time."""
    return split(sparse_dictionary(D, atoms=WIDTH, k=K, n=900, seed=0).activations, 0)


@pytest.fixture
def ways() -> dict[str, ensembles.Method]:
    return ensembles.methods(recipe(WIDTH, K, TOTAL), size=4, l2=1e-5, mutual=0.1)


def test_groups_are_disjoint_and_sizes_agree(data: Activations, ways: dict[str, ensembles.Method]) -> None:
    assert ensembles.groups(3, 4, 8) == [(8, 9, 10, 11), (12, 13, 14, 15), (16, 17, 18, 19)]
    with pytest.raises(ValueError, match="disjoint groups"):
        ensembles.grouped(ways, data, [(0, 1, 2, 3), (3, 4, 5, 6), (7, 8, 9, 10)])
    with pytest.raises(ValueError, match="groups of one size"):
        ensembles.grouped(ways, data, ensembles.groups(3, 3))
    with pytest.raises(ValueError, match="one number of steps for all"):
        ways["long"] = ensembles.Method("alone", recipe(WIDTH, K, TOTAL + 4))
        ensembles.grouped(ways, data, ensembles.groups(3, 4))
    with pytest.raises(ValueError, match="a multiple of 4"):
        ensembles.methods(recipe(WIDTH, K, 62), 4, 0.0, 0.0)


def test_every_method_takes_the_same_steps(data: Activations, ways: dict[str, ensembles.Method]) -> None:
    """Counted in the store: what was really trained, alone, for each method."""
    seeds = ensembles.groups(3, 4)
    for name, way in ways.items():
        before = {*_trainings()}
        outcome = ensembles.grouped({name: way}, data, seeds)[name]
        new = [manifest for path, manifest in _trainings().items() if path not in before]
        fresh = sum(config["steps"] * len(of) for config, of, _ in (manifest["config"] for manifest in new))
        if name in ("best_of", "pooled", "consensus"):  # these share their first SAEs, which the first of them trained
            shared = {"best_of": 0, "pooled": 3 * TOTAL, "consensus": 3 * 3 * TOTAL // 4}
            fresh += shared[name]
        assert (fresh, way.steps) == (3 * TOTAL, TOTAL), name
        assert len(outcome.seeds) == 3 and len(outcome.saes) == 3
        assert outcome.saes.config.d_sae == WIDTH and outcome.saes.config.active == K


def _trainings() -> dict[Path, dict]:
    return {path: json.loads(path.read_text()) for path in artifacts.root().glob("saes/*/manifest.json")}


@pytest.mark.parametrize("name", ["mutual", "best_of", "pooled", "consensus", "residuals"])
def test_a_group_never_sees_another(name: str, data: Activations, ways: dict[str, ensembles.Method]) -> None:
    one, other = (
        ensembles.grouped({name: ways[name]}, data, [*ensembles.groups(2, 4), last])[name].saes
        for last in ((8, 9, 10, 11), (40, 41, 42, 43))
    )
    for index in (0, 1):
        assert torch.equal(one[index].W_dec, other[index].W_dec) and torch.equal(one[index].W_enc, other[index].W_enc)
    assert not torch.equal(one[2].W_dec, other[2].W_dec)


@pytest.mark.parametrize("name", ["best_of", "mutual"])
def test_the_best_has_the_lowest_fvu_on_the_training_rows(
    name: str, data: Activations, ways: dict[str, ensembles.Method]
) -> None:
    outcome = ensembles.grouped({name: ways[name]}, data, ensembles.groups(3, 4))[name]
    flat = study.run({0: (data, ways[name].config)}, range(12))[0]
    fvus = np.reshape([row["fvu"] for row in flat.saes.quality(data.fit, data.mean)], (3, 4))
    assert outcome.seeds == tuple(4 * group + int(place) for group, place in enumerate(fvus.argmin(1)))
    assert outcome.by_seed["fvu"] == pytest.approx([flat.by_seed["fvu"][seed] for seed in outcome.seeds])
    assert torch.equal(outcome.at(0).W_dec[0], flat.at(0)[outcome.seeds[0]].W_dec[0]), (
        "checkpoints are picked with them"
    )


def test_held_out_rows_choose_nothing() -> None:
    atoms, x = planted()
    others = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(8))).Q[:12]
    acts = split(x, 0)
    acts = acts._replace(values=torch.where(acts.training[:, None], x, x @ atoms.T @ others))
    batches = [noisy(rows, 0.0) for rows in (others, atoms)]
    config = recipe(12, K, 1)
    held_out, fitting = (ensembles.Outcome(acts, config, one.seeds, Path(), made={1: one}) for one in batches)
    assert max(held_out.by_seed["fvu"]) < min(fitting.by_seed["fvu"])
    chosen = ensembles.best_of([held_out, fitting])
    assert torch.equal(chosen.saes.W_dec, fitting.saes.W_dec)


def test_a_consensus_starts_from_the_centroids(data: Activations, ways: dict[str, ensembles.Method]) -> None:
    way = replace_steps(ways["consensus"], 2048)
    seeds = ensembles.groups(3, 4)
    outcome = ensembles.grouped({"consensus": way}, data, seeds)["consensus"]
    assert outcome.seeds == (3, 7, 11) and outcome.config.objective.name == "consensus"
    members = study.run({0: (data, way.config)}, [0, 1, 2])[0]
    x = data.fit
    tau = centroids.thresholds(covariance_root(x), WIDTH)
    wanted = centroids.of(members.saes, members.saes.firing(x), covariance_root(x), *tau).decoder
    assert len(wanted) > WIDTH // 2
    torch.testing.assert_close(outcome.at(0).W_dec[0, : len(wanted)], wanted)
    assert torch.equal(ensembles.shared(way, data, seeds)[0].decoder, wanted)
    assert outcome.config.objective.rows == WIDTH // 2 and outcome.config.k_start == 1


def test_no_more_rows_are_held_than_every_group_has_centroids(
    data: Activations, ways: dict[str, ensembles.Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centroids, "FLOOR", 0.9)
    seeds = ensembles.groups(3, 4)
    counts = [len(one.bias) for one in ensembles.shared(ways["consensus"], data, seeds)]
    outcome = ensembles.grouped({"consensus": ways["consensus"]}, data, seeds)["consensus"]
    assert outcome.config.objective.rows == min(counts) < WIDTH // 2
    monkeypatch.setattr(centroids, "FLOOR", 1.0)
    outcome = ensembles.grouped({"consensus": ways["consensus"]}, data, seeds)["consensus"]
    assert outcome.config.objective == Objective("consensus"), "nothing to hold"
    assert outcome.quality["fvu"].value < 1


def test_the_recipe_is_tuned_by_reconstruction_on_rows_of_its_own(data: Activations) -> None:
    chosen, tried = ensembles.tune(data, recipe(WIDTH, K, TOTAL), [1e-5, 3e-3], [1.0, 3.0], [100, 101, 102])
    assert [*tried] == [(1e-5, 1.0), (3e-3, 1.0), (3e-3, 3.0)]
    fvus = {place: one.quality["fvu"].value for place, one in tried.items()}
    assert (chosen.lr, chosen.k_start) == min(fvus, key=fvus.__getitem__) and chosen.lr == 3e-3
    seen = tried[3e-3, 1.0].activations
    held_out = {tuple(row.tolist()) for row in data.held_out}
    assert len(seen.values) == len(data.fit) and not held_out & {tuple(row.tolist()) for row in seen.values}


def replace_steps(way: ensembles.Method, steps: int) -> ensembles.Method:
    return way._replace(config=replace(way.config, steps=steps, objective=Objective()))
