"""Ensembles: planted features come back as centroids, groups stay apart, and every method costs the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from husai import artifacts, ensembles, study
from husai.activations import Activations, split
from husai.config import Objective
from husai.identifiability import recipe
from husai.metrics import recovery
from husai.nulls import covariance_root, isotropic
from husai.saes import SAEBatch
from husai.similarity import cosine_matrix
from husai.tasks import sparse_dictionary

D, WIDTH, K = 16, 24, 3
TOTAL = 64


@pytest.fixture(scope="module")
def data() -> Activations:
    """Return 900 activations of 24 atoms in 16 dimensions, three at a time."""
    return split(sparse_dictionary(D, atoms=WIDTH, k=K, n=900, seed=0).activations, 0)


@pytest.fixture
def ways() -> dict[str, ensembles.Method]:
    return ensembles.methods(recipe(WIDTH, K, TOTAL), size=4, l2=1e-5, mutual=0.1)


def noisy(atoms: torch.Tensor, noise: float, seeds: int = 3) -> SAEBatch:
    """Return copies of a dictionary in other orders, every row turned by a little noise of its own."""
    rows = []
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        moved = atoms + noise * torch.randn(atoms.shape, generator=draw) / D**0.5
        rows.append(torch.nn.functional.normalize(moved, dim=1)[torch.randperm(len(atoms), generator=draw)])
    decoder = torch.stack(rows)
    config = recipe(len(atoms), K, 1).sae
    zeros = torch.zeros(seeds, len(atoms))
    return SAEBatch(config, tuple(range(seeds)), decoder.transpose(1, 2).clone(), zeros, decoder, torch.zeros(seeds, D))


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 12 well separated atoms, and data that they make: the commonest first."""
    atoms = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3))).Q[:12]
    draw = torch.Generator().manual_seed(4)
    rates = torch.linspace(0.6, 0.1, 12)
    codes = (torch.rand(2000, 12, generator=draw) < rates) * (1 + torch.rand(2000, 12, generator=draw))
    return atoms, codes @ atoms


def centroids(members: SAEBatch, x: Tensor, *tau: float) -> ensembles.Latents:
    return ensembles.centroids(members, members.firing(x), covariance_root(x), *tau)


def test_three_noisy_copies_give_the_dictionary_back() -> None:
    atoms, x = planted()
    found = centroids(noisy(atoms, 0.3), x, 0.7, 0.7)
    single = recovery(noisy(atoms, 0.3).W_dec[0], atoms)
    assert len(found.bias) == 12
    assert recovery(found.decoder, atoms) > single + 0.01, "the mean of three is nearer than one"
    assert recovery(found.encoder, atoms) > 0.95
    torch.testing.assert_close(found.decoder.norm(dim=1), torch.ones(12))


def test_what_one_seed_alone_has_is_left_out_and_the_order_is_by_support_and_frequency() -> None:
    atoms, x = planted()
    members = noisy(atoms, 0.05)
    strange = isotropic(4, D, 9)
    for rows in (0, 1):  # the first atom leaves one seed, the twelfth two
        gone = cosine_matrix(members.W_dec[rows], atoms[[0, 11]]).argmax(0)
        swap = gone if rows == 0 else gone[1:]
        members.W_dec[rows, swap] = strange[2 * rows : 2 * rows + len(swap)]
        members.W_enc[rows][:, swap] = members.W_dec[rows, swap].T
    found = centroids(members, x, 0.9, 0.9)
    which = cosine_matrix(found.decoder, atoms).argmax(1).tolist()
    assert sorted(which) == list(range(11)), "all but the one that a single seed has"
    rates = members.firing(x)[2][cosine_matrix(members.W_dec[2], atoms).argmax(0)]
    score = rates * torch.tensor([2.0] + [3.0] * 10 + [1.0])
    assert np.corrcoef([float(score[i]) for i in which], np.arange(11))[0, 1] < -0.9
    assert which.index(0) > which.index(2), "commoner, but in two seeds alone"


def test_a_match_needs_the_encoder_too() -> None:
    atoms, x = planted()
    members = noisy(atoms, 0.05)
    members.W_enc[0] = members.W_enc[0].roll(1, 1)  # every latent of the first seed reads what its neighbour writes
    members.W_enc[1] = -members.W_enc[1]
    assert len(centroids(members, x, 0.7, 0.7).bias) == 0


def test_encoders_are_compared_on_the_data_alone() -> None:
    atoms, x = planted()
    x = x - (x @ atoms[0])[:, None] * atoms[0]  # a direction without data
    members = noisy(atoms[1:], 0.05)
    members.W_enc.add_(5 * torch.randn(3, 1, 11) * atoms[0][:, None])
    assert len(centroids(members, x, 0.7, 0.7).bias) == 11


def test_missing_rows_are_the_largest_residuals() -> None:
    atoms, x = planted()
    known = ensembles.Latents(atoms[:10], atoms[:10], torch.zeros(10))
    config = replace(recipe(12, 3, 1), sae=replace(recipe(12, 12, 1).sae, k=12))
    start = ensembles.filled(known, config, torch.zeros(D), x, 0)
    assert torch.equal(start.W_dec[0, :10], atoms[:10]) and torch.equal(start.W_enc[0].T, start.W_dec[0])
    plane = start.W_dec[0, 10:] @ atoms[10:].T  # what is left lies in the plane of the two missing atoms
    torch.testing.assert_close(plane.norm(dim=1), torch.ones(2))
    none = ensembles.Latents(x[:0], x[:0], x[:0, 0])
    one, other = (ensembles.filled(none, config, x.mean(0), x, seed) for seed in (0, 1))
    assert len(one.W_dec[0]) == 12 and not torch.equal(one.W_dec, other.W_dec), "each group draws its own data points"
    torch.testing.assert_close(one.W_dec[0].norm(dim=1), torch.ones(12))


def test_thresholds_are_what_chance_seldom_reaches() -> None:
    wide = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    assert ensembles.thresholds(covariance_root(wide), 40) == (0.7, 0.7), "the floor, where chance stays below it"
    narrow = wide * torch.tensor([1.0, 1.0, 0.5] + [1e-3] * 61)
    decoder, encoder = ensembles.thresholds(covariance_root(narrow), 40)
    assert 0.95 < decoder < encoder <= 1


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
    tau = ensembles.thresholds(covariance_root(x), WIDTH)
    wanted = centroids(members.saes, x, *tau).decoder
    assert len(wanted) > WIDTH // 2
    torch.testing.assert_close(outcome.at(0).W_dec[0, : len(wanted)], wanted)
    assert torch.equal(ensembles.shared(way, data, seeds)[0].decoder, wanted)
    assert outcome.config.objective.rows == WIDTH // 2 and outcome.config.k_start == 1


def test_no_more_rows_are_held_than_every_group_has_centroids(
    data: Activations, ways: dict[str, ensembles.Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensembles, "FLOOR", 0.9)
    seeds = ensembles.groups(3, 4)
    counts = [len(one.bias) for one in ensembles.shared(ways["consensus"], data, seeds)]
    outcome = ensembles.grouped({"consensus": ways["consensus"]}, data, seeds)["consensus"]
    assert outcome.config.objective.rows == min(counts) < WIDTH // 2
    monkeypatch.setattr(ensembles, "FLOOR", 1.0)
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
