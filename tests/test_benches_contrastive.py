"""CE-style scores: their bound, what they do not change with, and a permutation null that is one."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from husai import activations, stats
from husai.activations import Activations
from husai.benches import contrastive, scaling
from husai.benches.contrastive import Bags, Sums
from husai.config import SAEConfig, TaskConfig, TrainConfig
from husai.language import pretrained
from husai.saes import SAEBatch, stack
from husai.study import Study
from husai.tasks import generator, sequences
from husai.text.stories import StoryPair


def identity(d: int, k: int, seed: int = 0) -> SAEBatch:
    """An SAE whose latents are the coordinates of its input, the k largest of them."""
    eye = torch.eye(d)[None]
    return SAEBatch(SAEConfig("topk", d, k), (seed,), eye, torch.zeros(1, d), eye, torch.zeros(1, d))


def bags(pairs: int, units: int, d: int, seed: int, signal: float = 0.0) -> Bags:
    """Pairs of bags of positive noise; coordinate 0 is `signal` larger on the first side."""
    values = torch.rand(2 * pairs * units, d, generator=generator(seed, "test"))
    place = torch.arange(2 * pairs).repeat_interleave(units)
    values[place % 2 == 0, 0] += signal
    return Bags(values, torch.arange(len(values)), place // 2, place % 2)


@pytest.mark.parametrize("d_sae", [2, 5, 128, 2048])
def test_the_bound_is_reached_by_one_latent_apart_and_by_nothing_else(d_sae: int) -> None:
    apart = torch.zeros(d_sae, dtype=torch.float64)
    apart[d_sae // 2] = 3.0
    assert contrastive.largest_z(apart).item() == pytest.approx(contrastive.bound(d_sae))
    noise = torch.randn(50, d_sae, generator=generator(0, "test")).pow(5)
    assert bool((contrastive.largest_z(noise) <= contrastive.bound(d_sae) + 1e-4).all())
    assert contrastive.largest_z(torch.ones(d_sae)).item() == 0


def test_the_width_of_a_score_is_the_first_whose_bound_holds_it() -> None:
    for score in (1.0, 10.0, 47.95161159):
        width = contrastive.width_for(score)
        assert contrastive.bound(width) >= score - 1e-9 > contrastive.bound(width - 1)
    assert contrastive.width_for(47.95161159) == 2302
    with pytest.raises(ValueError, match="above 0"):
        contrastive.width_for(0.0)


def one_pair_by_hand(a: Tensor, b: Tensor, reference: Tensor) -> tuple[float, float, float]:
    def z(x: Tensor) -> float:
        return float((x.max() - x.mean()) / x.std())

    apart, alone = (a.mean(0) - b.mean(0)).abs(), (torch.cat([a, b]).mean(0) - reference).abs()
    return z(apart), z(alone), z(apart + alone)


def test_scores_are_those_of_the_published_equations() -> None:
    d, latents = 6, torch.rand(20, 6, generator=generator(1, "test"))
    pair = torch.tensor([0] * 8 + [1] * 12)
    side = torch.tensor([0] * 3 + [1] * 5 + [0] * 7 + [1] * 5)  # sides of unequal size: I1 is over all rows
    found = contrastive.scores(Sums(latents, torch.ones(20)), pair, side)
    sides = [(latents[:3], latents[3:8]), (latents[8:15], latents[15:])]
    mean = torch.stack([torch.cat(both).mean(0) for both in sides]).mean(0)
    for reference, end in ((mean, ""), (torch.zeros(d), "_coded")):
        for index, both in enumerate(sides):
            wanted = one_pair_by_hand(*both, reference)
            names = ("contrastive", f"independence{end}", f"interpretability{end}")
            assert [float(found[name][index]) for name in names] == pytest.approx(wanted, rel=1e-4)


def test_swapping_sides_and_permuting_latents_change_no_score() -> None:
    made = bags(3, 5, 8, 0)
    sums = contrastive.add_up(identity(8, 8), made)
    found = contrastive.scores(sums, made.pair, made.side)
    swapped = contrastive.scores(sums, made.pair, 1 - made.side)
    permuted = contrastive.scores(Sums(sums.sums[:, torch.randperm(8)], sums.counts), made.pair, made.side)
    for name in contrastive.SCORES:
        assert torch.allclose(found[name], swapped[name]) and torch.allclose(found[name], permuted[name])


def test_reassigned_units_stay_in_their_pair_or_leave_it() -> None:
    made = bags(4, 6, 3, 0)
    for across in (False, True):
        at, units = contrastive.reassigned(made, 5, across)
        assert sorted(at.tolist()) == sorted(units.tolist()) == list(range(48))
        assert torch.equal(made.pair[units], made.pair[at]) is not across


def framed(pairs: int, frames: int, d: int, seed: int) -> Bags:
    """Pairs whose sides hold the same few of many frames; a row is its frame and noise, no subject."""
    draw = generator(seed, "test/framed")
    number = torch.cat([torch.randperm(2 * frames, generator=draw)[:frames].repeat(2) for _ in range(pairs)])
    values = torch.eye(d)[number] + 0.05 * torch.rand(len(number), d, generator=draw)
    place = torch.arange(2 * pairs).repeat_interleave(frames)
    return Bags(values, torch.arange(len(number)), place // 2, place % 2, number)


def test_matched_units_change_places_with_one_another_alone() -> None:
    made = framed(5, 4, 8, 0)
    for across in (False, True):
        at, units = contrastive.reassigned(made, 1, across)
        assert sorted(at.tolist()) == sorted(units.tolist()) == list(range(40))
        assert torch.equal(made.match[units], made.match[at]) and not torch.equal(units, at)
        assert torch.equal(made.pair[units], made.pair[at]) is not across


def test_without_a_subject_ranks_are_uniform_if_frames_are_matched_and_near_0_if_not() -> None:
    made, code = framed(120, 6, 24, 0), identity(24, 24)
    found, free = contrastive.judge(code, made, 31), contrastive.judge(code, made._replace(match=None), 31)
    for name in ("contrastive", "independence", "interpretability"):
        assert abs(found[name].rank - 0.5) < 0.08
    assert max(free[name].rank for name in ("independence", "interpretability")) < 0.1


def test_a_planted_latent_is_found_and_noise_ranks_as_chance_at_every_width() -> None:
    for d in (8, 64):
        noise = contrastive.judge(identity(d, d), bags(40, 6, d, d), 30)
        assert abs(noise["contrastive"].rank - 0.5) < 0.15
        assert abs(noise["independence"].rank - 0.5) < 0.15
        planted = contrastive.judge(identity(d, d), bags(10, 8, d, 0, signal=2.0), 30)["contrastive"]
        assert planted.rank > 0.95 and planted.score > planted.null + 0.5
        assert planted.share == pytest.approx(planted.score / contrastive.bound(d))
    with pytest.raises(ValueError, match="draws"):
        contrastive.judge(identity(8, 8), bags(2, 3, 8, 0), 0)


def test_a_dense_latent_is_independent_as_coded_whatever_the_pairs_are() -> None:
    made = bags(6, 5, 16, 0)
    made.values[:, 3] += 50
    found = contrastive.judge(identity(16, 16), made, 20)
    assert found["independence_coded"].score > 0.95 * contrastive.bound(16)
    assert found["independence"].score < 0.9 * contrastive.bound(16)
    assert found["independence_coded"].null == pytest.approx(found["independence_coded"].score, rel=0.01)


@pytest.fixture(scope="module")
def sums() -> Activations:
    x = torch.randn(11 * 11, 16, generator=generator(0, "test"))
    return activations.split(x, 0, "residues", held_out=0.6)


def test_bags_of_residues_hold_held_out_prompts_of_one_answer_each(sums: Activations) -> None:
    task, found = TaskConfig(11), contrastive.residues(sums, TaskConfig(11), 3)
    rows = [(sums.values == row).all(1).nonzero()[0, 0] for row in found.values]
    answers = sequences(task).answers[torch.stack(rows)]
    assert not sums.training[torch.stack(rows)].any()
    groups = {(int(p), int(s), int(a)) for p, s, a in zip(found.pair, found.side, answers, strict=True)}
    assert len(groups) == 10 and len({answer for _, _, answer in groups}) == 10
    fewer = contrastive.residues(sums, task, 3, units=2)
    assert bool((torch.bincount(2 * fewer.pair + fewer.side) == 2).all())
    with pytest.raises(ValueError, match="all 169 sequences"):
        contrastive.residues(sums, TaskConfig(13), 0)


@pytest.fixture(scope="module")
def studies(sums: Activations, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Study]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
        config = TrainConfig(SAEConfig(d_sae=8, k=2), steps=8, batch_size=16)
        return scaling.trained(sums, config, [8, 12], [0, 1, 2])


def test_widths_are_compared_with_random_dictionaries_of_their_own(
    sums: Activations, studies: dict[int, Study]
) -> None:
    assert {one.config.sae.k for one in studies.values()} == {2}
    kinds = scaling.controls(studies[12])
    assert {kind: tuple(saes.W_dec.shape) for kind, saes in kinds.items()} == dict.fromkeys(scaling.KINDS, (3, 12, 16))
    assert not torch.equal(kinds["N0"].W_dec[0], kinds["N0"].W_dec[1])
    found = scaling.score_all(studies, contrastive.residues(sums, TaskConfig(11), 0), 5)
    rows = scaling.summary(found, 8)
    wide, narrow = (found[width, "N0"]["interpretability_coded_score"] for width in (12, 8))
    assert rows["rise_N0"] == stats.difference(wide, narrow)
    ours, random = (found[8, kind]["interpretability_score"] for kind in ("SAE", "N2"))
    assert rows["excess_N2"] == stats.difference(ours, random)
    at, estimates = scaling.lines(found, "contrastive_share")["SAE"]
    assert at == [8, 12] and all(0 < one.value <= 1 for one in estimates)


@pytest.fixture(scope="module")
def minilm() -> pretrained.LanguageModel:
    return pretrained.load()


def test_sentences_are_units_and_their_tokens_rows(minilm: pretrained.LanguageModel) -> None:
    pairs = [StoryPair("a", ("one two", "three"), ("four", "five six seven")), StoryPair("b", ("one",), ("two",))]
    found = contrastive.sentences(minilm, "hook_embed", pairs, context=8)
    assert found.unit.tolist() == [0, 0, 1, 2, 3, 3, 3, 4, 5]
    assert found.pair.tolist() == [0, 0, 0, 0, 1, 1] and found.side.tolist() == [0, 0, 1, 1, 0, 1]
    assert torch.allclose(found.values[0], found.values[7], atol=1e-5)  # "one", first in its sentence both times
    with pytest.raises(ValueError, match="without a token"):
        contrastive.sentences(minilm, "hook_embed", [StoryPair("a", ("one", " "), ("two", "three"))])


def test_published_stories_are_scored_or_say_why_not(minilm: pretrained.LanguageModel, tmp_path: Path) -> None:
    eye = torch.eye(384)[:8]
    saes = stack([identity(8, 8, seed) for seed in range(3)])
    weights = {"W_enc": eye.T.expand(3, 384, 8).clone(), "W_dec": eye.expand(3, 8, 384).clone()}
    saes = replace(saes, **weights, b_dec=torch.zeros(3, 384))
    score = partial(scaling.on_published, model=minilm, hook="hook_embed", saes=saes, draws=3)
    assert score("") == {"published": "not run: no folder or dataset was named"}
    assert score(str(tmp_path))["published"].startswith("not run: source is")
    record = {"subject": "noise", "story1": "It was loud. Very loud!", "story2": "A hush. All was quiet."}
    (tmp_path / "stories.jsonl").write_text("\n".join([json.dumps(record)] * 2))
    found = score(str(tmp_path))
    assert found["published"] == "run" and 0 < found["published_score"].value <= contrastive.bound(8)


def test_dead_latents_do_not_count_and_all_kinds_score_by_as_many(sums: Activations, studies: dict[int, Study]) -> None:
    one = studies[12]
    kinds = scaling.controls(one)
    columns = scaling.living(one, kinds)
    for kind, saes in kinds.items():
        assert [len(kept) for kept in columns[kind]] == [len(kept) for kept in columns["SAE"]]
        rates = saes.firing(sums.held_out)
        assert all(bool((rates[i][kept] > 1e-3).all()) for i, kept in enumerate(columns[kind]))
    made = contrastive.residues(sums, TaskConfig(11), 0)
    few = contrastive.judge(one.saes[0], made, 3, columns=torch.arange(4))["contrastive"]
    whole = contrastive.add_up(one.saes[0], made)
    cut = contrastive.scores(Sums(whole.sums[:, :4], whole.counts), made.pair, made.side)["contrastive"].mean()
    assert few.score == pytest.approx(float(cut), rel=1e-5)
    assert few.share == pytest.approx(few.score / contrastive.bound(4))


def test_a_rank_at_its_ceiling_compares_no_widths() -> None:
    key = "interpretability_coded_rank"
    found = {(8, "SAE"): {key: [0.9, 0.8]}, (8, "N0"): {key: [1.0, 1.0]}, (16, "SAE"): {key: [0.99, 0.9]}}
    assert scaling.below_ceiling(found)
    assert not scaling.below_ceiling(found | {(32, "SAE"): {key: [0.97, 0.95]}})
