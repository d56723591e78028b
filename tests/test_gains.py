"""Gains between groups: planted differences are found, chosen and confirmed by the right intervals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from husai import ensembles, gains, stats
from husai.activations import Activations, split
from husai.ensembles import METRIC, Outcome
from husai.evidence import Estimate
from husai.identifiability import recipe
from husai.metrics import hungarian_mcc, pairwise_matrix, recovery
from husai.nulls import isotropic
from husai.saes import SAEBatch
from husai.study import Study
from husai.tasks import sparse_dictionary

D, WIDTH, K = 16, 24, 3
TOY = sparse_dictionary(D, atoms=WIDTH, k=K, n=900, seed=0)


@pytest.fixture(scope="module")
def data() -> Activations:
    return split(TOY.activations, 0)


def planted(data: Activations, noise: float, groups: int = 6, first: int = 0) -> Study:
    """Return SAEs whose decoders are the truth with noise of their own."""
    rows = []
    for seed in range(first, first + groups):
        draw = torch.Generator().manual_seed(seed)
        moved = TOY.atoms + noise * torch.randn(TOY.atoms.shape, generator=draw) / D**0.5
        rows.append(torch.nn.functional.normalize(moved, dim=1))
    decoder = torch.stack(rows)
    config = replace(recipe(WIDTH, K, 8), steps=8)
    batch = SAEBatch(
        config.sae, tuple(range(groups)), decoder.transpose(1, 2).clone(), torch.zeros(groups, WIDTH), decoder,
        torch.zeros(groups, D),
    )  # fmt: skip
    return Outcome(data, config, batch.seeds, Path(), made={8: batch})


def test_a_planted_gain_is_found_with_its_cost_and_its_truth(data: Activations) -> None:
    outcomes = {
        "tuned": planted(data, 0.5),
        "better": planted(data, 0.2, first=20),
        "same": planted(data, 0.5, first=40),
    }
    rows = gains.against(outcomes, truth=TOY.atoms)
    better, same = rows["better"], rows["same"]
    direct = stats.difference(outcomes["better"].scores(METRIC), outcomes["tuned"].scores(METRIC))
    assert (better["gain"].value, better["gain"].low) == pytest.approx((direct.value, direct.low))
    assert better["gain"].low > 0.05 and better["clear"] and better["gain"].n == 6
    assert same["gain"].low < 0 < same["gain"].high and not same["clear"]
    assert better["recovery_gain"].low > 0 and better["fvu_ratio"].high < 1
    assert "gain" not in rows["tuned"] and "clear" not in rows["tuned"]
    assert rows["tuned"]["recovery"].value == pytest.approx(
        sum(recovery(one, TOY.atoms) for one in outcomes["tuned"].decoders) / 6
    )
    assert better["p_holm"] == pytest.approx(min(1, 2 * better["p"])) and same["p_holm"] >= same["p"]
    assert 0 < same["detectable"] and rows["tuned"]["agreement"].method.startswith("jackknife over groups of seeds")
    start = stats.pairwise(pairwise_matrix(hungarian_mcc, outcomes["same"].at(8).W_dec))
    assert same["start"].value == pytest.approx(start.value)


def test_the_weights_are_the_firing_rates(data: Activations) -> None:
    one = planted(data, 0.3)
    before = one.scores(METRIC)[0, 1]
    rare, common = (order for order in one.firing[0].argsort()[[0, -1]])
    for latent, wanted in ((rare, True), (common, False)):
        turned = planted(data, 0.3)
        turned.saes.W_dec[0, latent] *= -1
        turned.__dict__["firing"] = one.firing
        assert (before - turned.scores(METRIC)[0, 1] < before - turned.scores("hungarian_mcc")[0, 1]) == wanted


def test_anchors_and_a_sweep_over_k(data: Activations) -> None:
    config = recipe(WIDTH, K, 32)
    points = gains.anchors(data, config, [0, 1, 2])
    still, tiny = points["frozen decoder"][0], points["as few latents as k"][0]
    drawn = sum(hungarian_mcc(isotropic(WIDTH, D, 2 * i), isotropic(WIDTH, D, 2 * i + 1)) for i in range(20)) / 20
    assert still[1].value == pytest.approx(drawn, abs=0.08) and tiny[0].value > 0.3
    ways = {"tuned": ensembles.Method("alone", config), "longer": ensembles.Method("alone", replace(config, lr=1e-3))}
    made = ensembles.grouped(ways, data, ensembles.groups(4, 2))
    lines = gains.swept(made, ways, [6, 2], data, ensembles.groups(3, 2))
    assert [one.config.sae.k for one in lines["longer"]] == [2, K, 6]
    assert [one.seeds for one in lines["tuned"]] == [(0, 2, 4)] * 3, "the same groups at every k"
    assert torch.equal(lines["tuned"][1].saes.W_dec, made["tuned"].saes.W_dec[:3])


def test_refusals(data: Activations) -> None:
    with pytest.raises(ValueError, match="baseline is 'long'; wanted one of"):
        gains.against({"tuned": planted(data, 0.2)}, "long")
    with pytest.raises(ValueError, match="the same groups for all methods"):
        gains.against({"tuned": planted(data, 0.2), "other": planted(data, 0.2, groups=5)})


def row(gain: float, ratio: float = 1.0, sound: bool = True) -> dict:
    return {
        "gain": Estimate(gain, gain - 1, gain + 1, 6),
        "fvu_ratio": Estimate(ratio, ratio - 0.01, ratio + 0.01, 6),
        "sound": sound,
    }


def test_the_best_gains_on_every_data_set_without_losing_reconstruction() -> None:
    one = {"tuned": {}, "even": row(0.1), "uneven": row(0.3), "costly": row(0.9, 1.05), "dead": row(0.9, sound=False)}
    other = {"tuned": {}, "even": row(0.08), "uneven": row(0.02), "costly": row(0.9), "dead": row(0.9)}
    assert gains.best([one, other]) == "even"
    assert gains.best([{"tuned": {}, "costly": row(0.1, 2.0), "dead": row(0.2, sound=False)}]) == "dead"


def test_gates_of_quality(data: Activations) -> None:
    fine = planted(data, 0.0)
    assert gains.sound(fine) == (fine.quality["fvu"].value < 0.2)
    broken = planted(data, 0.0)
    broken.saes.W_enc[:, :, :12] = 0
    assert not gains.sound(broken), "half of the latents never fire"


def test_principal_axes_agree_and_explain_what_they_can(data: Activations) -> None:
    few, many = (gains.principal(data, k, [0, 1, 2]) for k in (1, 16))
    assert many[0].value == pytest.approx(0, abs=1e-4) and 0.5 < few[0].value < 1
    steep = data._replace(values=data.values * torch.logspace(1, -1, D))
    assert gains.principal(steep, 2, [0, 1, 2])[1].value > 0.98, "halves of the data have the same axes"


def test_the_gain_at_a_matched_fvu(data: Activations) -> None:
    def sweep(noise: float, first: int) -> list[Study]:
        return [planted(data, noise + extra, 3, first) for extra in (0.0, 0.4)]

    better, worse = sweep(0.1, 0), sweep(0.3, 50)
    wanted = float(max(worse[0].quality["fvu"].value, better[0].quality["fvu"].value)) * 1.02
    assert isinstance(gains.at_fvu(better, worse, wanted), Estimate)
    assert gains.at_fvu(better, worse, 1e-6) == "not reached by both"


def test_a_point_of_the_frontier_is_fvu_and_agreement(data: Activations) -> None:
    one = planted(data, 0.2)
    fvu, agreement = gains.point(one)
    assert fvu.value == pytest.approx(sum(one.by_seed["fvu"]) / 6)
    assert agreement.value == pytest.approx(stats.pairwise(one.scores(ensembles.METRIC)).value)
