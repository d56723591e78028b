"""Candidates and evidence out of studies; faithfulness on sentence embeddings, whose ends are known."""

import numpy as np
import pytest
import torch

from husai import activations, gate, stats, study, tasks
from husai.benches import probing
from husai.language import collect, pretrained, site
from husai.recipes import converged
from husai.release import candidates, faithfulness
from husai.saes import SAEBatch
from husai.text import corpus

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, study.Study]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
        toy = tasks.sparse_dictionary(16, atoms=32, k=3, n=600, seed=0)
        acts = activations.split(toy.activations, seed=0, name="toy")
        conditions = {name: (acts, converged(width, 3, 64)) for name, width in (("a", 24), ("b", 32))}
        conditions["N4"] = (acts.shuffled(0), converged(24, 3, 64))
        found = study.run(conditions, [0, 1, 2])
        for one in found.values():
            one.saes, one.firing  # noqa: B018  read while the store is there
        return found


def test_candidates_are_told_apart_by_configuration_and_weights(studies: dict[str, study.Study]) -> None:
    a, b, again = (candidates.candidate(name, studies[name]) for name in ("a", "b", "a"))
    assert a == again and a.config != b.config and a.digest != b.digest and a.seeds == (0, 1, 2)
    better = [gate.Metric("agreement"), gate.Metric("fvu", "lower")]
    assert gate.front([a, b], better)  # same data: they can be compared
    values = candidates.internal(studies["a"], {"N4": studies["N4"]})
    assert set(values) == {"stability_N2", "stability_N4", "fvu"}


def test_evidence_names_the_weights_and_the_data_and_fails_for_others(studies: dict[str, study.Study]) -> None:
    values = {"fvu": stats.mean([0.1, 0.11, 0.12])}
    gates = {"fvu": gate.Threshold("fvu", "below", "a reason", 0.2)}
    (proof,) = candidates.proofs("a", studies["a"], values, "paper", {})
    assert proof.address == "75:a_fvu" and proof.data == candidates.data(studies["a"])
    ways = {name: candidates.candidate(name, studies[name]) for name in ("a", "b")}
    assert "had not converged" in gate.decide(ways["a"], [proof], gates).reasons[0]  # 64 steps
    assert "other weights" in gate.decide(ways["b"], [proof], gates).reasons[0]
    (smoke,) = candidates.proofs("a", studies["a"], values, "smoke", {"fvu": ("d", "e")})
    assert (smoke.profile, smoke.data, smoke.against) == ("smoke", "d", "e")


def test_rows_like_the_held_out_ones_cost_nothing_and_noise_does(studies: dict[str, study.Study]) -> None:
    one = studies["a"]
    assert candidates.out_of_distribution(one, one.activations.held_out).value == pytest.approx(0, abs=1e-5)
    noise = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    assert candidates.out_of_distribution(one, noise).value > 0.03


def test_the_best_baseline_is_the_same_for_all_tasks() -> None:
    names = ("x | y", "x | z", "y | z")
    chosen = {code: np.full((3, 3), 0.6) for code in ("sae", *candidates.BASELINES, "dense")}
    chosen["neurons"] = np.array([[0.9] * 3, [0.7] * 3, [0.5] * 3])
    chosen["dense"] = np.full((3, 3), 0.99)  # not as few numbers: no baseline
    chosen["sae"] = chosen["neurons"] + np.array([[0.1, 0.1, 0.1], [0.1, 0.12, 0.1], [0.1, 0.1, 0.08]])
    best, gap = candidates.against_baselines(probing.Scores(names, ("d",) * 3, chosen, {}, (1,)))
    assert best == "neurons" and gap.value == pytest.approx(0.1) and gap.unit == "AUC" and gap.n == 3


def test_decisions_are_recorded_with_what_binds() -> None:
    gates = {"fvu": gate.Threshold("fvu", "below", "a reason", 0.2)}
    ways = [gate.Candidate(name, f"#{name}", f"!{name}", (0, 1, 2)) for name in ("a", "b")]
    good = gate.Evidence("fvu", stats.mean([0.1, 0.11, 0.12]), "!b", "d", "paper", True, "75:b_fvu")
    found = candidates.verdicts([gate.decide(ways[0], [], gates), gate.decide(ways[1], [good], gates)])
    assert (found["first"], found["exit_status"]) == ("b", 0)
    assert (found["a_pass_all"], found["b_pass_all"], found["a_binding"]) == (False, True, "fvu")
    drawn = candidates.distances({"a": {"fvu": good.value}, "b": {}}, gates)
    assert drawn["fvu"]["a"].low == pytest.approx(0.2 - good.value.high)
    with pytest.raises(ValueError, match="decisions"):
        candidates.verdicts([])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> site.Site:
    texts = [f"Document {i} speaks of {word} and of nothing else at all." for i, word in enumerate("abcdefghijkl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
        model, found = pretrained.load("minilm"), corpus.of("toy", texts, ["t"] * len(texts))
        return site.Site(model, found, HOOK, collect.collect(model, found, HOOK, 80, 32))


def linear(d_model: int, scale: float, bias: torch.Tensor) -> SAEBatch:
    """Return a signed dictionary of all axes and their opposites: x_hat = bias + scale (x - bias)."""
    from husai.config import SAEConfig

    axes = torch.cat([torch.eye(d_model), -torch.eye(d_model)])[None]
    config = SAEConfig("topk", 2 * d_model, d_model)
    return SAEBatch(config, (0,), axes.transpose(1, 2) * scale, torch.zeros(1, 2 * d_model), axes, bias[None])


def test_the_embedding_is_given_back_by_the_identity_and_not_by_the_mean(place: site.Site) -> None:
    tokens, mean = faithfulness.held_out_documents(place, 3, 32), place.text.acts.mean
    held = {place.corpus.documents[i] for i in place.text.document[~place.text.acts.training].tolist()}
    assert 1 <= len(tokens.ids) <= len(held)
    d_model = place.model.d_model
    (whole,) = faithfulness.embedding_recovered(place.model, HOOK, linear(d_model, 1.0, mean), tokens, mean)
    (nothing,) = faithfulness.embedding_recovered(place.model, HOOK, linear(d_model, 0.0, mean), tokens, mean)
    (some,) = faithfulness.embedding_recovered(place.model, HOOK, linear(d_model, 0.7, mean), tokens, mean)
    assert whole == pytest.approx(1, abs=1e-4) and nothing == pytest.approx(0, abs=1e-4)
    assert 0.2 < some < 0.999
    with pytest.raises(ValueError, match="hook"):
        faithfulness.embedding_recovered(place.model, "blocks.9.hook", linear(d_model, 1.0, mean), tokens, mean)


def test_rows_of_other_texts_are_those_of_their_tokens(place: site.Site) -> None:
    rows = faithfulness.activations_of(place.model, HOOK, ["one small text", "one small text"])
    tokens = place.model.tokenize(["one small text"], 64)
    wanted = place.model.at(tokens, HOOK)[tokens.kept]
    assert rows.shape == wanted.shape and torch.allclose(rows, wanted.unique(dim=0), atol=1e-5)
