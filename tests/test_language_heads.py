"""Heads: profiles of planted patterns, matches that survive a permutation, and the bias of a best pair."""

import pytest
import torch

from husai.language import gpt, heads, matched
from husai.language.gpt import GPTConfig, GPTs

CONFIG = GPTConfig(n_layers=2, n_heads=4, d_model=32, d_mlp=16)
OF = matched.texts("adhd", n=12)


def models(seeds=(0, 1, 2)) -> GPTs:
    return GPTs(CONFIG, "adhd", tuple(seeds), gpt.initialise(CONFIG, seeds), matched.tokenizer())


def test_heads_that_see_all_tokens_alike_have_the_profile_of_the_mean() -> None:
    flat = models()
    for layer in range(2):
        flat.parameters[f"blocks.{layer}.attn.W_Q"].zero_()
    found = heads.profiles(flat, OF, 8)
    lengths = OF.before_onset.nonzero()[:, 1] + 1
    wanted = (1 / lengths[lengths >= 8]).mean()
    torch.testing.assert_close(found, wanted.expand(3, 2, 4, 8))


def test_profiles_are_those_of_the_pattern() -> None:
    seen = {}
    ours = models()
    ours.logits(OF.tokens, lambda name, value: seen.__setitem__(name, value))
    rows = [
        seen["blocks.1.attn.hook_pattern"][2, text, 3, query, query - torch.arange(6)]
        for text, query in OF.before_onset.nonzero().tolist()
        if query >= 5
    ]
    torch.testing.assert_close(heads.profiles(ours, OF, 6)[2, 1, 3], torch.stack(rows).mean(0))


def test_a_permutation_of_heads_is_found_one_to_one_but_not_by_index() -> None:
    a = torch.rand(3, 4, 16, generator=torch.Generator().manual_seed(0)) ** 4
    found = heads.scores(a, a[:, [1, 2, 3, 0]])
    assert found["assigned"].diagonal() == pytest.approx(1) and found["best"].diagonal() == pytest.approx(1)
    assert (found["same_index"].diagonal() < 0.9).all()


def test_the_best_of_many_unrelated_pairs_is_far_above_their_mean() -> None:
    draw = torch.Generator().manual_seed(1)
    few, many = (heads.scores(*(torch.rand(3, n, 16, generator=draw) for _ in range(2))) for n in (2, 32))
    assert many["best"].mean() > few["best"].mean() + 0.03
    assert abs(many["same_index"].mean() - few["same_index"].mean()) < 0.05


def test_contrasts_find_a_shared_start_and_no_distance_between_styles() -> None:
    draw = torch.Generator().manual_seed(2)
    base = torch.rand(3, 2, 6, 16, generator=draw)
    styles = {"standard": base, "adhd": base + 0.02 * torch.rand(base.shape, generator=draw)}
    tables = heads.tables(styles, torch.rand(3, 2, 6, 16, generator=draw), 1)
    found, rows = heads.contrasts(tables), heads.compared(tables)
    assert found["start"].low > 0.1 and abs(found["apart"].value) < 0.05
    assert rows["styles, same seed"]["same_index"].value > 0.99 > rows["standard"]["best"].value
    assert list(rows) == ["styles, same seed", "styles, other seeds", "standard", "adhd", "other layer", "untrained"]


def test_a_head_that_all_models_have_in_one_layer_is_beyond_both_nulls() -> None:
    draw = torch.Generator().manual_seed(4)
    styles = {style: torch.rand(3, 2, 6, 16, generator=draw) for style in ("standard", "adhd")}
    for one in styles.values():
        one[:, 1, 2] = 10 * torch.eye(16)[5]
    found = heads.contrasts(heads.tables(styles, torch.rand(3, 2, 6, 16, generator=draw), 1))
    assert found["beyond_layer"].low > 0 and found["beyond_untrained"].low > 0


def test_what_all_heads_have_in_common_makes_no_match() -> None:
    draw = torch.Generator().manual_seed(3)
    fall = 0.7 ** torch.arange(16)
    styles = {s: fall + 0.02 * torch.rand(3, 2, 4, 16, generator=draw) for s in ("standard", "adhd")}
    assert heads.scores(*[one[:, 1] for one in styles.values()])["same_index"].min() > 0.99
    found = heads.tables(styles, fall + 0.02 * torch.rand(3, 2, 4, 16, generator=draw), 1)
    assert abs(found["styles"]["same_index"].mean()) < 0.2
    assert heads.contrasts(found)["beyond_layer"].low < 0 < heads.contrasts(found)["beyond_layer"].high


def test_too_long_a_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="distances is 200"):
        heads.profiles(models(), OF, 200)
