"""Effects of matched directions on models whose reading is known: what must agree agrees, what must not does not."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from husai import activations, consistency, effects, interventions, nulls, saes, silenced
from husai.config import ModelConfig, TaskConfig
from husai.effects import Agreement, along, at_cosine, gap, score, steered, steering, trend, with_partners
from husai.fourier import fired
from husai.models import Models, initialise
from husai.recipes import converged
from husai.study import Study
from husai.tasks import sequences

D, P, SEEDS = 16, 19, (0, 1, 2)
POST = "blocks.0.hook_resid_post"


def model(read=D):
    """A model whose answers read the first axes alike, as an isometry, and the others not at all."""
    task, config = TaskConfig(P), ModelConfig(1, d_model=D, n_heads=2, d_mlp=32)
    data = sequences(task)
    parameters = initialise(config, data.vocabulary, data.tokens.shape[1], [0])
    ones = torch.ones(P, 1)
    frame = torch.linalg.qr(torch.cat([ones, torch.randn(P, D, generator=torch.Generator().manual_seed(3))], 1)).Q
    unembed = torch.zeros(1, D, data.vocabulary)
    unembed[0, :read, :P] = frame[:, 1 : read + 1].T  # orthonormal, and without a part along all answers
    return Models(config, task, (0,), {**parameters, "unembed.W_U": unembed}, (0,))


def place(read=D):
    one = model(read)
    acts = activations.collect(one, POST)[0]
    return interventions.site(one, acts, POST, interventions.inputs(acts, 12)), acts


def study(folder, acts, dictionaries, bias=0.0):
    """A study whose SAEs have these dictionaries [d_sae, D] and encode by their inverse."""
    config = converged(len(dictionaries[0]), len(dictionaries[0]), 4)
    rows = normalize(torch.stack(dictionaries), dim=-1)
    biases = {"b_enc": torch.full(rows.shape[:2], bias), "b_dec": torch.zeros(len(rows), D)}
    batch = saes.SAEBatch(config.sae, SEEDS, W_enc=torch.linalg.pinv(rows), W_dec=rows, **biases)
    saes.save(batch, folder / "step_4")
    return Study(acts, config, SEEDS, folder)


def random_rows(n, seed):
    return nulls.isotropic(n, D, seed)


def shuffled_copies(rows):
    return [rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))] for seed in SEEDS]


def test_where_every_direction_is_read_alike_effects_are_as_alike_as_directions():
    site, _ = place()
    found = along(site, [random_rows(10, seed) for seed in SEEDS], 1.0).agreement()
    for decoder, effect in zip(found.decoder, found.effect, strict=True):
        assert torch.allclose(decoder, effect, atol=1e-4)
    assert found.matrix[0, 1] == pytest.approx(float(found.effect[0].mean()))
    assert found.matrix[1, 2] == found.matrix[2, 1] == pytest.approx(float(found.effect[2].mean()))
    assert np.diag(found.matrix).tolist() == [1, 1, 1]


def test_the_same_features_in_any_order_do_the_same_and_their_neighbours_do_not():
    site, _ = place()
    found = along(site, shuffled_copies(random_rows(10, 7)), 1.0)
    assert found.agreement().matrix == pytest.approx(np.ones((3, 3)), abs=1e-4)
    assert abs(score([found.agreement(shuffled=True)]).value) < 0.25
    opposite = along(site, [random_rows(10, 7), -random_rows(10, 7), random_rows(10, 7)], 1.0).agreement()
    assert opposite.matrix[0, 1] < 0.6, "a direction and its opposite do not match"
    assert opposite.matrix[0, 2] == pytest.approx(1, abs=1e-4)


def test_a_turned_row_has_the_cosine_that_was_asked_for():
    rows, others = 3 * random_rows(6, 0), random_rows(6, 1)
    wanted = torch.tensor([-1.0, -0.3, 0.0, 0.5, 0.9, 1.0])
    turned = at_cosine(rows, others, wanted)
    assert torch.allclose((turned * normalize(rows, dim=1)).sum(1), wanted, atol=1e-5)
    assert torch.allclose(turned.norm(dim=1), torch.ones(6), atol=1e-5)
    for turn, a, b in zip(turned, rows, others, strict=True):
        assert torch.linalg.matrix_rank(torch.stack([turn, a, b]), tol=1e-4) == 2, "in the plane of the two"
    assert bool(((turned * others).sum(1)[1:4] > -0.3).all())


def test_drawn_partners_agree_as_much_as_the_cosine_says_and_no_more():
    site, _ = place()
    own = along(site, [random_rows(8, seed) for seed in SEEDS], 1.0)
    found = with_partners(site, own, random_rows(24, 5), 1.0)
    for decoder, effect, real in zip(found.decoder, found.effect, own.agreement().decoder, strict=True):
        assert torch.allclose(decoder, real, atol=1e-5) and torch.allclose(effect, decoder, atol=1e-4)


def test_directions_without_features_agree_as_much_as_their_cosine_implies(tmp_path):
    """Where data and reading are uneven, a direction that was only turned to the cosine agrees less than a draw."""
    scales = torch.cat([torch.ones(4), torch.full((D - 4,), 0.3)])
    one, rows = model(), [random_rows(60, seed) for seed in SEEDS]
    one.parameters["unembed.W_U"].mul_(scales[:, None])
    acts = activations.collect(one, POST)[0]
    site = interventions.site(one, acts, POST, interventions.inputs(acts, 12))
    uneven = study(tmp_path, acts._replace(values=torch.randn(361, D) * scales), rows, bias=9.0)
    found = steering([site], [uneven], [1.0])[1.0]
    chance = gap(found["N2"], found["N2_at_N2"])
    assert abs(chance.value) < 0.02, "the known answer: no features, nothing beyond the cosine"
    own = along(site, [nulls.covariance_matched(uneven.activations.fit, 60, seed).float() for seed in SEEDS], 1.0)
    decoder = own.agreement().decoder[0]
    turned = at_cosine(own.directions[0], nulls.covariance_matched(uneven.activations.fit, 60, 9), decoder)
    naive = (own.profiles[0] * along(site, [turned], 1.0).profiles[0]).sum(1).mean()
    assert own.agreement().matrix[0, 1] - float(naive) > 0.05, "why partners are drawn, not turned"


def test_features_that_differ_where_nothing_is_read_agree_beyond_their_cosine(tmp_path):
    site, acts = place(read=8)
    found = effects.controls(site, study(tmp_path, acts, [random_rows(8, 7)] * 3), 1.0)
    assert score(found["unread"]).value > 0.97
    assert gap(found["unread"], found["unread_at_N2"]).low > 0.02
    assert score(found["copies"]).value > 0.8


def test_the_directions_that_move_nothing_are_found():
    site, _ = place(read=8)
    assert effects.least_read(site, 1.0, 8)[:, :8].abs().max() < 1e-4
    assert effects.least_read(site, 1.0, 9)[:, :8].abs().max() > 0.1


def test_shared_features_beat_every_null_and_unrelated_ones_beat_none(tmp_path):
    site, acts = place()
    shared = study(tmp_path / "a", acts, shuffled_copies(random_rows(10, 7)))
    alone = study(tmp_path / "b", acts, [random_rows(10, 50 + seed) for seed in SEEDS])
    found = steering([site] * 3, [shared] * 3, [0.5, 2.0], at=0.5)
    assert list(found) == [0.5, 2.0] and list(found[2.0]) == ["features", "N0", "N2", "shuffled"]
    for rows in found.values():
        for null in ("shuffled", "N0", "N2"):
            assert gap(rows["features"], rows[null]).low > 0.1, null
    for implied in ("at_N0", "at_N2"):  # at a cosine of 1 the partner is the same direction
        assert score(found[0.5][implied]).value == pytest.approx(1, abs=1e-3)
    own = gap(found[0.5]["N2"], found[0.5]["N2_at_N2"])
    assert abs(own.value) < 1e-3, "an isometry: the cosine implies everything"
    unrelated = steering([site], [alone], [1.0])[1.0]
    assert abs(gap(unrelated["features"], unrelated["N0"]).value) < 0.1
    assert gap(unrelated["features"], unrelated["at_N2"]).value == pytest.approx(0, abs=1e-3)


def test_latents_that_fire_together_and_do_the_same_agree_when_ablated(tmp_path):
    site, acts = place()
    rows = torch.linalg.qr(random_rows(10, 7).T).Q.T
    same = study(tmp_path / "a", acts, shuffled_copies(rows))
    whole = silenced.ablated(site, same, same.alive)
    for profiles, kept in zip(whole.profiles, same.alive, strict=True):
        lengths = profiles.norm(dim=1)
        assert len(profiles) == int(kept.sum()) and bool(((lengths - 1).abs() < 1e-4).logical_or(lengths == 0).all())
    latents = same.alive[0].nonzero()[:, 0]
    change = interventions.ablate(site, same.saes[0]).profile(int(latents[0]), len(site.x))
    wanted = normalize((change - change.mean(1, keepdim=True)).flatten(), dim=0)
    assert torch.allclose(whole.profiles[0][0], wanted, atol=1e-5)
    fires = float(torch.stack([profiles.norm(dim=1).mean() for profiles in whole.profiles]).mean())
    assert score([whole.agreement()]).value == pytest.approx(fires, abs=1e-3), "latents that are silent here agree on 0"
    mirrored = study(tmp_path / "b", acts, [rows, rows - 2 * rows.mean(0), -rows])
    first = silenced.ablated(site, same, same.alive).profiles[0]
    third = silenced.ablated(site, mirrored, torch.ones_like(mirrored.alive)).profiles[2]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))[same.alive[0]]
    assert (first * third[order]).sum(1).abs().max() < 1e-5, "relu(z) and relu(-z) never fire on the same input"


def test_removed_latents_stand_beside_directions_that_fire_as_often_and_near_copies(tmp_path):
    site, acts = place()
    rows = torch.linalg.qr(random_rows(10, 7).T).Q.T
    same = study(tmp_path / "a", acts, shuffled_copies(rows))
    alone = study(tmp_path / "b", acts, [random_rows(10, 50 + seed) for seed in SEEDS])
    found = silenced.ablation([site] * 2, [same, alone])
    for one in found.values():
        assert len(one) == 2 and [len(side) for side in one[0].effect] == [len(side) for side in one[0].decoder]
    for one in found["copies"]:
        assert score([one]).value > 0.97, "the same latents, hardly turned"
    features, directions = (score([found[name][0]]).value for name in ("features", "N2"))
    assert features > directions + 0.1, "what is shared is beyond what fires as often"
    assert gap([found["features"][1]], [found["N2"][1]]).value < 0, "and it can win against what is not shared"


def test_directions_that_fire_at_the_same_rate_and_are_the_same_agree():
    site, _ = place()
    rows = shuffled_copies(random_rows(6, 7))
    z = [fired(site.x @ one.T, torch.full((6,), 0.5)) for one in rows]
    found = silenced.removed(site, z, rows).agreement()
    assert found.matrix == pytest.approx(np.ones((3, 3)), abs=1e-4)
    change = silenced.removed(site, z, rows).profiles[0][2].reshape(len(site.x), P)
    assert ((change != 0).any(1) == (z[0][:, 2] != 0)).all()


def test_a_null_of_another_model_is_changed_in_that_model(tmp_path):
    site, acts = place(read=4)
    whole, _ = place()
    one = study(tmp_path, acts, [random_rows(12, 60 + seed) for seed in SEEDS], bias=9.0)
    _, there = effects.against_trained(steered, site, one, one, whole)
    first, here = effects.against_trained(steered, site, one, one)
    assert first[0].matrix == pytest.approx(here[0].matrix)
    assert there[0].matrix == pytest.approx(steered(whole, one, one.alive).agreement().matrix)
    assert not np.allclose(there[0].matrix, here[0].matrix)


def test_an_excess_over_the_cosine_is_compared_with_that_of_a_null(tmp_path):
    """Features that differ where nothing is read exceed their cosine; unrelated directions do not."""
    site, acts = place(read=8)
    shared, unread = random_rows(8, 7), torch.eye(D)[8:]
    turned = [at_cosine(shared, nulls.isotropic(8, 8, 90 + seed) @ unread, 0.8) for seed in SEEDS]
    learned = study(tmp_path / "a", acts, turned, bias=9.0)
    null = study(tmp_path / "b", acts, [random_rows(8, 60 + seed) for seed in SEEDS], bias=9.0)
    assert effects.implied_beyond(site, learned, null).low > 0.05
    assert effects.implied_beyond(site, null, learned).high < -0.05
    assert effects.implied_beyond(site, learned, learned).value == pytest.approx(0, abs=1e-6)


def test_a_trained_null_is_compared_at_equal_counts(tmp_path):
    site, acts = place()
    many = study(tmp_path / "a", acts, [random_rows(12, 7)] * 3, bias=9.0)  # all fire on every input
    few = study(tmp_path / "b", acts, [random_rows(5, 60 + seed) for seed in SEEDS], bias=9.0)
    first, second = effects.against_trained(steered, site, many, few)
    assert [len(one) for one in first[0].effect + second[0].effect] == [5] * 6
    assert score(first).value == pytest.approx(1, abs=1e-4) and gap(first, second).low > 0
    assert gap(second, first).value == pytest.approx(-gap(first, second).value)


def test_a_trend_is_the_means_of_equal_groups_in_order_of_the_decoder_cosine():
    decoder = torch.linspace(0, 1, 12)[torch.randperm(12)]
    models = [Agreement((decoder,), (2 * decoder + shift,)) for shift in (-0.1, 0.0, 0.1)]
    found = trend(models, groups=3)
    steps = torch.linspace(0, 1, 12).reshape(3, 4).mean(1)
    assert [x.value for x, _ in found] == pytest.approx(steps.tolist(), abs=1e-6)
    assert [y.value for _, y in found] == pytest.approx((2 * steps).tolist(), abs=1e-6)
    assert all(x.high - x.low < 1e-6 and y.n == 3 for x, y in found)


def test_the_sources_statistic_is_high_for_directions_that_have_nothing_in_common():
    site, _ = place()
    random = consistency.consistency(site, [random_rows(10, seed) for seed in SEEDS])
    assert random.overall.value > 0.7 and abs(random.effect_cosine.value) < 0.25
    assert list(random.by_magnitude) == [1, 2, 5]
    assert random.overall.value == pytest.approx(np.mean([e.value for e in random.by_magnitude.values()]))
    same = consistency.consistency(site, [random_rows(10, 7)] * 3)
    assert same.overall.value == pytest.approx(1) and same.effect_cosine.value == pytest.approx(1, abs=1e-4)
    assert consistency.difference(same, random).value == pytest.approx(1 - random.overall.value)


def test_the_sources_statistic_by_hand():
    kl = np.array([[[1.0, 1.0]], [[3.0, 1.0]], [[2.0, 1.0]]])
    spread = np.sqrt(2 / 3) / 2
    assert consistency.statistic(kl) == pytest.approx((1 - spread + 1) / 2)
    assert consistency.statistic(np.array([[[0.0]], [[0.0]], [[9.0]]])) == 0.0, "never below zero"


def test_published_matches_are_the_strongest_latents_and_keep_their_sign(tmp_path):
    site, acts = place()
    rows = random_rows(6, 7)
    batch = study(tmp_path, acts, [rows, -rows.flip(0), rows.roll(2, 0)]).saes
    chosen, flipped, rolled = consistency.published_matches(site, batch, top=3)
    assert torch.allclose(flipped, -chosen, atol=1e-5) and torch.allclose(rolled, chosen, atol=1e-5)
    strength = batch[0].encode(site.x)[0].abs().mean(0)
    assert torch.allclose(chosen[0], rows[strength.argmax()], atol=1e-5)


def test_published_features_stand_beside_as_many_random_directions(tmp_path):
    site, acts = place()
    batch = study(tmp_path, acts, shuffled_copies(random_rows(6, 7))).saes
    told = consistency.against_random(site, batch, top=4)
    found = consistency.summary(**told)
    assert told["random"].kl.shape == told["features"].kl.shape == (3, 3, 4)
    assert found["features"].value == pytest.approx(1) == found["features_cosine"].value
    assert found["gap"].value == pytest.approx(1 - found["random"].value) and abs(found["random_cosine"].value) < 0.3


def test_what_does_not_fit_is_refused(tmp_path, unchecked):
    site, acts = place()
    one = study(tmp_path, acts, shuffled_copies(random_rows(10, 7)))
    with pytest.raises(ValueError, match="sites is 2"):
        steering([site, site], [one], [1.0])
    with pytest.raises(ValueError, match="at is 1.0"):
        steering([site], [one], [0.5])
    with pytest.raises(ValueError, match="cosine is 1.2"):
        at_cosine(random_rows(2, 0), random_rows(2, 1), 1.2)
    with pytest.raises(ValueError, match="n is 17"):
        effects.least_read(site, 1.0, 17)
    with pytest.raises(ValueError, match="groups is 13"):
        trend([Agreement((torch.rand(12),), (torch.rand(12),))] * 3, 13)
    other = Study(acts, one.config, (3, 4, 5), one.folder)
    with pytest.raises(ValueError, match="other: seeds"):
        effects.against_trained(steered, site, one, other)
