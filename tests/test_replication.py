"""Replication is told from one SAE: planted differences are found, on data not fitted, and nothing else leaks in."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import activations, study
from husai.recipes import converged
from husai.replication import (
    COVARIATES,
    Predictor,
    Table,
    auroc,
    covariates,
    judge,
    kind,
    leave_out,
    over_families,
    table,
)
from husai.tasks import sparse_dictionary

SEEDS = (0, 1, 2, 3)


def made(seed: int, slope: float = 3.0, n: int = 300, seeds: int = 4) -> Table:
    """Return a table in which the log odds of a match are `slope` times the first covariate, the others noise."""
    draw = np.random.default_rng(seed)
    rows = [draw.standard_normal((n, len(COVARIATES))) for _ in range(seeds)]
    found = []
    for i, part in enumerate(rows):
        # all other seeds agree on a feature, so the odds are those of replicating too
        hit = draw.random(n) < 1 / (1 + np.exp(-slope * part[:, 0]))
        found.append(np.array([hit & (j != i) for j in range(seeds)]))
    return Table(tuple(rows), tuple(found))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    # half as many atoms as latents: some find an atom and come back, the spare ones do not
    acts = activations.split(sparse_dictionary(16, 16, 3, 5000, seed=0).activations, seed=0, name="toy")
    config = replace(converged(32, 3, steps=2048), lr=3e-3, decay_share=0.8)
    yield study.run({"x": (acts, config)}, SEEDS)["x"]
    patch.undo()


def test_planted_odds_are_learnt_and_calibrated_on_another_table() -> None:
    predictor = Predictor.fit([made(0)])
    assert predictor.weights[0] == pytest.approx(3, rel=0.15)
    assert max(map(abs, predictor.weights[1:])) < 0.4
    found = judge(predictor, made(1))
    assert found.auroc.low > 0.8 and found.auroc.n == 4
    assert found.calibration_error.value < 0.05 and abs(found.bias.value) < 0.05
    assert [p.value for p, _ in found.reliability] == sorted(p.value for p, _ in found.reliability)
    overconfident = replace(predictor, weights=tuple(3 * w for w in predictor.weights))
    assert judge(overconfident, made(1)).calibration_error.value > found.calibration_error.value + 0.03
    assert judge(overconfident, made(1)).auroc.value == pytest.approx(found.auroc.value, abs=0.02)


def test_where_nothing_tells_it_is_chance() -> None:
    found = leave_out({i: made(i, slope=0.0) for i in range(3)})
    for one in found.values():
        assert one.auroc.value == pytest.approx(0.5, abs=0.06)


def test_a_table_is_never_judged_by_what_was_fitted_on_its_family() -> None:
    tables = {("a", 0): made(0), ("a", 1): made(1), ("b", 0): made(2, slope=-3.0, n=50)}
    alone = leave_out(tables)
    assert alone["a", 0].auroc.value > 0.5, "the other a outweighs"
    by_family = leave_out(tables, family=lambda name: name[0])
    assert by_family["a", 0].auroc.value < 0.2, "only b was left to fit on"
    with pytest.raises(ValueError, match="two families"):
        leave_out(tables, family=lambda name: "one")


def test_most_of_the_other_seeds() -> None:
    hits = np.zeros((4, 4), dtype=bool)
    hits[1:2, 0] = hits[1:3, 1] = hits[1:4, 2] = True
    found = Table((np.zeros((4, 5)),) * 4, (hits,) * 4)
    assert found.replicates()[0].tolist() == [False, True, True, False]
    assert found.replicates([0, 1, 2])[0].tolist() == [False, True, True, False]
    assert found.replicates([0, 3])[0].tolist() == [False, False, True, False]


def test_one_class_gives_its_rate_and_no_ranking() -> None:
    never = Table(made(0).covariates, tuple(np.zeros_like(part) for part in made(0).matches))
    predictor = Predictor.fit([never])
    assert predictor.probability(never.covariates[0]).max() < 0.01 and set(predictor.weights) == {0.0}
    assert judge(predictor, never).auroc.value == 0.5
    assert auroc(np.array([0.1, 0.4, 0.3]), np.array([False, True, False])) == 1


def test_json_and_back(tmp_path) -> None:
    predictor = Predictor.fit([made(0)], names=("strength", "firing_rate"))
    back = Predictor.from_dict(json.loads(json.dumps(predictor.as_dict())))
    assert back == predictor
    rows = made(3).covariates[0]
    assert np.array_equal(back.probability(rows), predictor.probability(rows))
    shuffled = rows.copy()
    shuffled[:, 2:] = 7
    assert np.array_equal(back.probability(shuffled), predictor.probability(rows)), "it uses two covariates"
    for broken in (
        {"names": []},
        {**predictor.as_dict(), "mean": [0.0]},
        {**predictor.as_dict(), "names": ["x", "y"]},
    ):
        with pytest.raises(ValueError, match="wanted"):
            Predictor.from_dict(broken)


def test_covariates_see_one_sae_and_know_nothing_of_order_or_scale(real) -> None:
    sae, keep, x = real.saes[0], real.alive[0], real.activations.held_out
    rows = covariates(sae, x, keep)
    assert rows.shape == (int(keep.sum()), len(COVARIATES)) and np.isfinite(rows).all()
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    turned = replace(sae, W_enc=sae.W_enc[:, :, order], b_enc=sae.b_enc[:, order], W_dec=sae.W_dec[:, order])
    position = keep.nonzero()[:, 0].tolist()
    again = covariates(turned, x, keep[order])
    places = [position.index(latent) for latent in order[keep[order]].tolist()]
    assert np.allclose(again, rows[places], atol=1e-4)
    stretched = replace(sae, W_enc=2 * sae.W_enc, b_enc=2 * sae.b_enc)
    assert np.allclose(covariates(stretched, x, keep), rows, atol=1e-4)
    z = sae.encode(x)[0][:, keep]
    rate = (z != 0).double().mean(0)
    assert np.allclose(rows[:, 0], (rate / rate.mean()).log())
    assert np.abs(rows[:, [2, 4]]).max() <= 1 + 1e-6 and (rows[:, 3] >= 0).all() and (rows[:, 3] <= 1).all()
    with pytest.raises(ValueError, match="one: "):
        covariates(real.saes, x, keep)


def test_atoms_that_come_back_are_told_from_spare_latents(real) -> None:
    found = table(real)
    share = np.concatenate(found.replicates()).mean()
    assert 0.1 < share < 0.95
    result = judge(Predictor.fit([found]), found)
    assert result.auroc.value > 0.75 and result.share.value == pytest.approx(share)


def test_a_mean_over_data_sets_counts_kinds() -> None:
    tables = {("a", i): made(i) for i in range(4)} | {("b", 0): made(5), ("c", 0): made(6, slope=0.0)}
    judged = leave_out(tables, kind)
    found = over_families(judged)
    of_a = np.mean([judged["a", i].auroc.value for i in range(4)])
    wanted = np.mean([of_a, judged["b", 0].auroc.value, judged["c", 0].auroc.value])
    assert found["auroc"].value == pytest.approx(wanted) and found["auroc"].n == 3
    with pytest.raises(ValueError, match="families"):
        over_families({name: one for name, one in judged.items() if name[0] != "c"})
