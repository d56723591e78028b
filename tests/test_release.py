"""Candidates and evidence out of studies; faithfulness on sentence embeddings, whose ends are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import activations, gate, stats, study, tasks
from husai.benches import probing
from husai.language import collect, pretrained, site
from husai.recipes import converged
from husai.release import candidates, faithfulness, proofs
from husai.saes import SAEBatch
from husai.stress import shifts
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
    assert a.data == b.data == candidates.data(studies["a"])  # same data: they can be compared
    other = gate.Evidence("fvu", None, b.digest, b.seeds, "d", "paper", True, "75:b_fvu")
    with pytest.raises(ValueError, match="evidence for fvu"):
        candidates.candidate("a", studies["a"], [other])


def test_what_a_study_says_of_itself_is_its_own(studies: dict[str, study.Study]) -> None:
    one = studies["a"]
    found = proofs.internal(one, {"N4": studies["N4"]})
    assert set(found) == {"stability_N2", "stability_N4", "fvu", "plateau"}
    assert {each.data for each in found.values()} == {candidates.data(one)}
    plateau, slope = found["plateau"].value, one.convergence.slope
    assert plateau.value == pytest.approx(abs(slope)) and plateau.low < plateau.value < plateau.high
    assert found["stability_N2"].attainable[1] < 1  # less the null's own score
    assert proofs.sound(one) == (one.passes["dead share"] and one.passes["L0 on target"])


def test_the_best_baseline_is_chosen_on_training_items_and_the_same_for_all_tasks() -> None:
    names = ("x | y", "x | z", "y | z")
    chosen = {code: np.full((3, 3), 0.6) for code in ("sae", *proofs.BASELINES, "dense")}
    chosen["neurons"] = np.array([[0.9] * 3, [0.7] * 3, [0.5] * 3])
    chosen["dense"] = chosen["pca"] = np.full((3, 3), 0.99)  # dense reads more numbers; pca is best on the test alone
    chosen["sae"] = chosen["neurons"] + np.array([[0.1, 0.1, 0.1], [0.1, 0.12, 0.1], [0.1, 0.1, 0.08]])
    inner = {code: np.full((3, 3), 0.8 if code == "neurons" else 0.7) for code in ("sae", *proofs.BASELINES)}
    best, gap = proofs.against_baselines(probing.Scores(names, ("d",) * 3, chosen, {}, (1,), inner))
    assert best == "neurons" and gap.value == pytest.approx(0.1) and gap.unit == "AUC" and gap.n == 3


def test_decisions_are_recorded_with_what_binds() -> None:
    gates = {"fvu": gate.Threshold("fvu", "below", "a reason", 0.2)}
    ways = [gate.Candidate(name, f"#{name}", f"!{name}", (0, 1, 2)) for name in ("a", "b")]
    good = gate.Evidence("fvu", stats.mean([0.1, 0.11, 0.12]), "!b", (0, 1, 2), "d", "paper", True, "75:b_fvu")
    decided = [gate.decide(ways[0], [], gates), gate.decide(ways[1], [good], gates)]
    found = candidates.verdicts(gate.ranking(decided))
    assert (found["first"], found["exit_status"], found["first_failed"], found["first_binding"]) == ("b", 0, 0, "fvu")
    assert candidates.verdicts(gate.ranking(decided, ["a"]))["exit_status"] == 2  # off the front b is not first
    assert (found["a_pass_all"], found["b_pass_all"], found["a_binding"]) == (False, True, "fvu")
    drawn = candidates.distances({"a": {"fvu": good.value}, "b": {}}, gates)
    assert drawn["fvu"]["a"].low == pytest.approx(0.2 - good.value.high)
    with pytest.raises(ValueError, match="ranked"):
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


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[proofs.Bench, dict[str, study.Study]]:
    """Return a site with three classes of documents, SAEs on it, a trained null, and texts of another kind."""
    about = {"x": "rivers and lakes", "y": "matrices of numbers", "z": "old musical songs"}
    other = {"x": "y", "y": "z", "z": "x"}  # every third label is wrong: no probe is perfect
    said = [(i, about[name if i % 3 else other[name]]) for i in range(24) for name in about]
    texts = [f"Note {i} explains {words} unhesitatingly, number {i * 7}." for i, words in said]
    told = ["The unhappiest gardener planted tulips.", "Her grandmother laughed uncontrollably at breakfast."]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
        model, found = pretrained.load("minilm"), corpus.of("toy", texts, [*about] * 24)
        text = collect.collect(model, found, HOOK, 600, 32)
        where = site.Site(model, found, HOOK, text)
        arms = {"real": text.acts, "N4": text.acts.shuffled(0)}
        made = study.run({name: (acts, converged(16, 8, 64)) for name, acts in arms.items()}, [0, 1, 2])
        for one in made.values():
            one.saes, one.firing  # noqa: B018  read while the store is there
        asked = probing.text_tasks(text.acts, text.document, found.labels, list(about), 8, 1)
        read = faithfulness.held_out_documents(where, 6, 32)
        return proofs.Bench(where, asked, [1], shifts.texts(where, told, 32), read, "paper"), made


def test_real_evidence_passes_gates_that_it_meets_and_fails_those_of_others(
    bench: tuple[proofs.Bench, dict[str, study.Study]],
) -> None:
    on, made = bench
    one = made["real"]
    found, baseline = proofs.proofs("real", one, {"N4": made["N4"], "N5": made["N4"]}, on)
    declared = gate.load()
    judged = {name for name, each in declared.items() if each.direction in ("above", "below")}
    assert {each.gate for each in found} == judged and baseline in proofs.BASELINES
    wide = {name: replace(each, bound=-9.0 if each.direction == "above" else 9.0)
            for name, each in declared.items() if name in judged}  # fmt: skip
    way = candidates.candidate("real", one, found)
    sure = [replace(each, sound=True) for each in found]  # 64 steps are few
    decision = gate.decide(way, sure, wide)
    assert decision.pass_all, decision.reasons  # real methods, units, seeds and data count, the probe's too
    assert gate.front([way], candidates.BETTER) == ["real"]
    other = candidates.candidate("N4", made["N4"])
    assert all("other weights" in reason for reason in gate.decide(other, sure, wide).reasons)
    at_home = [replace(each, data=way.data) for each in sure if each.gate == "ood_fvu"]
    assert "own held-out rows" in gate.decide(way, at_home, {"ood_fvu": wide["ood_fvu"]}).reasons[0]
