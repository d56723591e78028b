"""The feature diff finds a feature that was planted, and nothing where nothing was."""

import numpy as np
import pytest
import torch

from husai.config import SAEConfig
from husai.pairs import diff
from husai.saes import SAEBatch

D = 12


def planted(seed: int, planted_rate: float, texts: int = 300, each: int = 4):
    """Return residuals at onsets and their texts: coordinate j is on at rate .3, but 0 at `planted_rate`."""
    draw = torch.Generator().manual_seed(seed)
    document = torch.arange(texts).repeat_interleave(each)
    level = torch.full((D,), 0.3)
    level[0] = planted_rate
    return 2.0 * (torch.rand(len(document), D, generator=draw) < level), document


def identity_sae(order=None):
    """Return an SAE whose latent j reads coordinate order[j]."""
    W_dec = torch.eye(D)[list(range(D)) if order is None else order][None]
    return SAEBatch(SAEConfig("relu", D, D), (0,), W_dec.mT.contiguous(), -torch.ones(1, D), W_dec, torch.zeros(1, D))


def fires(sae, x):
    return sae.encode(x)[0] != 0


def test_a_planted_feature_is_the_only_one_found():
    sae, (here, a), (there, b) = identity_sae(), planted(1, 0.6), planted(2, 0.0005)
    found = diff.contrast(fires(sae, here), a, fires(sae, there), b)
    assert np.flatnonzero(found.asymmetric()).tolist() == [0] and found.chosen == 0
    assert found.here.rate[0] == pytest.approx(0.6, abs=0.05) and found.ratio[0] > 100
    assert found.here.fired[0] == int(fires(sae, here)[:, 0].sum())  # counts of onsets, not of documents


def test_nothing_is_found_between_two_draws_of_the_same():
    sae, (here, a), (there, b) = identity_sae(), planted(1, 0.3), planted(2, 0.3)
    found = diff.contrast(fires(sae, here), a, fires(sae, there), b)
    assert not found.asymmetric().any() and (found.q > 0.05).all()


def test_more_often_is_not_enough_without_the_ratio_and_a_ratio_not_without_the_test():
    sae, (here, a), (there, b) = identity_sae(), planted(1, 0.6), planted(2, 0.3)
    found = diff.contrast(fires(sae, here), a, fires(sae, there), b)
    assert found.q[0] < 1e-6 and not found.asymmetric().any()
    here, there = torch.zeros(40, 2, dtype=torch.bool), torch.zeros(400, 2, dtype=torch.bool)
    here[3, 0] = True  # one onset of forty, none of four hundred: a large ratio that is one event
    found = diff.contrast(here, torch.arange(40), there, torch.arange(400))
    assert found.ratio[0] > 20 and not found.asymmetric()[0]


def test_repeating_every_onset_within_its_text_makes_nothing_surer():
    draw = torch.Generator().manual_seed(3)
    here, there = torch.rand(200, 3, generator=draw) < 0.10, torch.rand(200, 3, generator=draw) < 0.06
    once = diff.contrast(here, torch.arange(200), there, torch.arange(200))
    many = [one.repeat_interleave(20, 0) for one in (here, there)]
    document = torch.arange(200).repeat_interleave(20)
    again = diff.contrast(many[0], document, many[1], document)
    assert np.allclose(again.q, once.q) and np.allclose(again.here.rate, once.here.rate)
    assert np.allclose(again.here.high - again.here.low, once.here.high - once.here.low, rtol=0.02)


def test_intervals_of_rates_are_wilsons_where_texts_do_not_matter():
    fired = torch.zeros(1000, 2, dtype=torch.bool)
    fired[:30, 1] = True
    found = diff.rates(fired, torch.arange(1000))
    assert found.low[0] == 0 and found.high[0] == pytest.approx(0.00383, abs=1e-4)
    assert (found.low[1], found.high[1]) == pytest.approx((0.0211, 0.0425), abs=3e-4)
    with pytest.raises(ValueError, match="two or more"):
        diff.rates(fired, torch.zeros(1000, dtype=torch.long))


def reader(sae, x, asymmetric, chosen=-1):
    mask = torch.zeros(D, dtype=torch.bool)
    mask[asymmetric] = True
    return diff.Reader(sae.W_dec[0], sae.encode(x)[0], mask, chosen)


def test_the_same_features_in_another_order_all_come_back():
    x, _ = planted(1, 0.4)
    order = torch.randperm(D, generator=torch.Generator().manual_seed(0)).tolist()
    a = reader(identity_sae(), x, [0, 1], 0)
    b = reader(identity_sae(order), x, [order.index(0), order.index(1)], order.index(0))
    found = diff.returns(a, b, same_model=True)
    assert (found.function, found.again, found.decoder, found.others, found.chosen) == (1, 1, 1, 1, 1)
    assert found.chance == 0 and found.any_pair == 0.5
    other = diff.returns(a, b._replace(chosen=order.index(1)), same_model=True)
    assert other.chosen == 0


def test_firing_in_one_style_alone_is_no_more_than_chance():
    """Two latents that are on at nine of ten adhd onsets, for nothing in common, correlate over both styles."""
    draw = torch.Generator().manual_seed(0)
    one, two = (torch.cat([(torch.rand(800, 1, generator=draw) < 0.9).float(), torch.zeros(800, 1)]) for _ in range(2))
    a, b = (diff.Reader(torch.eye(1), x, torch.tensor([True]), 0, 800) for x in (one, two))
    found = diff.returns(a, b, same_model=False)
    assert found.function == found.chance == 1


def test_features_that_do_something_else_do_not_come_back():
    (x, _), (y, _) = planted(1, 0.4), planted(2, 0.4)
    a, b = reader(identity_sae(), x, [0, 1], 0), reader(identity_sae(), y, [0, 1], 0)
    found = diff.returns(a, b, same_model=False)
    assert (found.function, found.again, found.chosen) == (0, 0, 0) and np.isnan(found.decoder)
    none = diff.returns(a, b._replace(asymmetric=torch.zeros(D, dtype=torch.bool)), same_model=True)
    assert none == (0, 0, 0, 0, 0, 0, 0)


def test_latents_to_compare_with_have_like_rates_and_are_not_chosen():
    draw = torch.Generator().manual_seed(0)
    rate = torch.tensor([0.5, 0.1, 0.48, 0.11, 0.9, 0.0])
    codes = (torch.rand(5000, 6, generator=draw) < rate).float()
    chosen = torch.tensor([True, True, False, False, False, False])
    assert diff.like(codes, chosen).tolist() == [2, 3]
    assert sorted(diff.like(codes, torch.tensor([True] * 4 + [False] * 2)).tolist()) == [4]


def test_the_three_senses_are_kept_apart():
    x, _ = planted(1, 0.4)
    sae = identity_sae()
    mine = reader(sae, x, [0, 1, 2])
    shifted = sae.encode(x)[0].clone()
    shifted[:, 1] = shifted[:, 1].roll(7)  # the other has the row, but it does something else
    rows = torch.eye(D)
    rows[2] = torch.nn.functional.normalize(torch.ones(D), dim=0)  # it does the same along another row
    other = diff.Reader(rows, shifted, torch.zeros(D, dtype=torch.bool))
    tokens = x.clone()
    tokens[:, 0] = 0  # never on in the other model
    found = diff.senses(mine, other, sae, tokens)
    assert found.silent[:3].tolist() == [True, False, False]
    assert found.no_decoder[:3].tolist() == [False, False, True]
    assert found.no_function[:3].tolist() == [False, True, False]


def test_random_directions_are_rarely_near_a_decoder_row():
    x = torch.randn(2000, 48, generator=torch.Generator().manual_seed(0))
    assert diff.near_by_chance(x, torch.eye(48)) == 0
    assert diff.near_by_chance(x[:, :2], torch.eye(2)) > 0.4
