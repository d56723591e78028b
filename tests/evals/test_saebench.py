"""SAEBench and sae-probes themselves, on SAEs whose answers are known: make evals."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from husai import activations, grokking, interventions
from husai.benches import environment, probing, saebench
from husai.config import SAEConfig
from husai.saes import SAEBatch
from husai.tasks import generator, sequences

HOOK = "blocks.0.hook_resid_post"
EVALS = os.environ.get("EVALS", ".venv-evals")


@pytest.fixture(autouse=True)
def own_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path / "artifacts"))
    torch.manual_seed(0)


def test_the_environment_was_made():
    assert environment.status(EVALS) == "run"


def mirrored(axes: torch.Tensor, centre: torch.Tensor, k: int) -> SAEBatch:
    """Return a TopK of all axes with both signs: with k of at least the number of axes it answers its input."""
    rows = torch.cat([axes, -axes])[None]
    shape = SAEConfig("topk", rows.shape[1], k)
    return SAEBatch(shape, (0,), rows.transpose(1, 2).contiguous(), torch.zeros(1, len(rows[0])), rows, centre[None])


def test_core_knows_our_model_a_perfect_sae_and_what_ours_says_of_a_poor_one():
    model = grokking.substrate("clean", [0, 1, 2], p=29, steps=20).select(0)
    acts = activations.collect(model, HOOK)[0]
    x = acts.held_out
    axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2]
    saes = {"perfect": mirrored(axes, x.mean(0), len(axes)), "poor": mirrored(axes[:40], x.mean(0), 3)}
    found = saebench.core(model, HOOK, acts, saes, 3.0, EVALS)
    assert found["perfect_0"]["ce_loss_score"] == pytest.approx(1, abs=1e-4)
    assert found["perfect_0"]["cossim"] == pytest.approx(1, abs=1e-4)
    rows = (~acts.training).nonzero()[:, 0]
    data = sequences(model.task)
    plain = torch.nn.functional.cross_entropy(model.logits(data.tokens[rows])[0], data.answers[rows])
    assert found["poor_0"]["ce_loss_without_sae"] == pytest.approx(plain.item(), rel=1e-4)
    replaced = interventions.splice(interventions.site(model, acts, HOOK, rows), saes["poor"])
    spliced = torch.nn.functional.cross_entropy(replaced, data.answers[rows])
    assert found["poor_0"]["ce_loss_with_sae"] == pytest.approx(spliced.item(), rel=1e-4)
    assert found["poor_0"]["l0"] == pytest.approx((saes["poor"].encode(x) != 0).sum(-1).float().mean().item(), rel=1e-4)
    assert saes["poor"].quality(x, x.mean(0))[0]["fvu"] > 0.2
    constant = saebench.constant(x.mean(0)).quality(x, x.mean(0))[0]
    assert constant["fvu"] == pytest.approx(1) and found["constant_0"]["l0"] == 0
    assert found["shifted_0"]["explained_variance"] > 0.8, "what its formula gives to an answer that never changes"


def test_another_model_is_refused(monkeypatch: pytest.MonkeyPatch):
    model = grokking.substrate("clean", [0, 1, 2], p=29, steps=5).select(0)
    acts = activations.collect(model, HOOK)[0]
    right = saebench.hooked
    monkeypatch.setattr(saebench, "hooked", lambda *given: right(*given)._replace(logits=right(*given).logits.flip(0)))
    with pytest.raises(ValueError, match="wanted those of the model"):
        saebench.core(model, HOOK, acts, {}, 0.0, EVALS)


def test_sparse_probing_finds_a_planted_latent():
    right = torch.arange(4).repeat(60)
    x = torch.randn(240, 16, generator=generator(0, "test/evals")) * 0.1
    x[torch.arange(240), right] += 1
    acts = activations.Activations(x, torch.ones(240, dtype=torch.bool))
    axes, zeros = torch.eye(16), torch.zeros(16)
    saes = {"true": mirrored(axes, zeros, 4), "blind": mirrored(axes[8:], zeros, 4)}
    found = saebench.sparse_probing(acts, right, [0, 1, 2, 3], HOOK, saes, [1, 2], EVALS)
    assert found["true"].shape == (2, 4, 1) and found["dense"].shape == (1, 4, 1)
    assert found["true"][0].min() > 0.95 and found["dense"].min() > 0.95
    assert 0.3 < found["blind"].mean() < 0.7, "one half is chance"


def test_sae_probes_reads_our_rows_with_the_split_that_it_told_us(tmp_path: Path):
    names = ["5_hist_fig_ismale", "105_click_bait"]
    found = saebench.texts(names, 200, EVALS)
    assert list(found) == names and all(isinstance(text, str) for text in found[names[0]].texts)
    for item in found.values():
        assert len(item.texts) == 200 and sum(item.labels) == 100
        assert len(item.train) == 100 and len(item.test) == 99 and not set(item.train) & set(item.test)
    rows = {}
    for name, item in found.items():
        rows[name] = torch.randn(200, 12, generator=generator(2, f"test/{name}"))
        rows[name][:, 5] += 4 * torch.tensor(item.labels)
    sae = mirrored(torch.eye(12), torch.zeros(12), 12)
    scores = saebench.sae_probes(found, rows, HOOK, {"sae": sae}, [1, 2], EVALS)
    assert scores["sae"].shape == (2, 1) and scores["sae"].min() > 0.97 and scores["dense"].min() > 0.97
    ours = probing.scores(saebench.text_tasks(found, rows), sae, (1, 2))
    assert np.abs(ours.chosen["sae"] - scores["sae"]).max() < 0.02
    wrong = {name: item._replace(test=item.test[::-1]) for name, item in found.items()}
    with pytest.raises(ValueError, match="slices of sae-probes"):
        saebench.sae_probes(wrong, rows, HOOK, {"sae": sae}, [1, 2], EVALS)


def test_what_sae_probes_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no_such_set.*wanted names of"):
        saebench.texts(["no_such_set"], 200, EVALS)
