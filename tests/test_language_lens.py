"""The logit lens: the last layer says what the model says, and a planted layer is found."""

import math

import pytest
import torch

from husai.language import gpt, lens, matched
from husai.language.gpt import GPTConfig, GPTs

CONFIG = GPTConfig(n_layers=3, n_heads=2, d_model=16, d_mlp=16)
OF = matched.texts("adhd", n=20)
LATER = OF.before_onset & (OF.tokens != matched.tokenizer().id("<|steps|>"))


def models(style: str = "adhd") -> GPTs:
    return GPTs(CONFIG, style, (0, 1, 2), gpt.initialise(CONFIG, (0, 1, 2)), matched.tokenizer())


def test_the_last_layer_is_the_models_own_probability() -> None:
    found, said = lens.at_onsets(models(), OF), models().logits(OF.tokens).softmax(-1)
    ids = torch.tensor(matched.regulation_ids(matched.tokenizer()))
    wanted = said[:, LATER][:, :, ids].sum(-1).mean(1)
    torch.testing.assert_close(found.regulation[:, -1], wanted)
    comes = (OF.onset & OF.regulation)[:, 1:]
    there = said[:, :, :-1][:, comes][:, :, ids].sum(-1).mean(1)
    torch.testing.assert_close(found.there[:, -1], there)
    torch.testing.assert_close(found.lift, found.there / found.regulation)
    assert found.hooks == ("hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(3)))
    assert (found.openings >= found.regulation).all()


def test_a_block_that_writes_the_direction_of_the_words_is_where_they_rise() -> None:
    planted = models()
    words = planted.parameters["embed.W_E"][:, list(matched.regulation_ids(planted.tokenizer))].mean(1)
    for layer in range(3):  # only block 2 writes, always the same
        for part in ("attn.W_O", "mlp.W_out"):
            planted.parameters[f"blocks.{layer}.{part}"].zero_()
    before = lens.at_onsets(planted, OF)
    torch.testing.assert_close(before.regulation[:, 1], before.regulation[:, 3])
    hidden = planted.parameters["blocks.2.mlp.W_out"]
    at = planted.parameters["embed.W_E"][:, [planted.tokenizer.id("<|sep|>"), planted.tokenizer.id("<|steps|>")]]
    mean = at.mean(1)  # a gate that is open at both separators
    planted.parameters["blocks.2.mlp.W_gate"].copy_(10 * mean[:, :, None].expand_as(hidden.transpose(1, 2)))
    planted.parameters["blocks.2.mlp.W_in"].copy_(10 * mean[:, :, None].expand_as(hidden.transpose(1, 2)))
    hidden.copy_(words[:, None].expand_as(hidden))
    found = lens.at_onsets(planted, OF)
    assert (torch.tensor(found.rise("regulation", 2)) > 0.5).all()
    torch.testing.assert_close(torch.tensor(found.rise("regulation", 1)), torch.zeros(3), atol=1e-4, rtol=0)
    assert (found.regulation[:, 3] > 5 * found.regulation[:, 2]).all()
    standard = lens.at_onsets(models("standard"), matched.texts("standard", n=20))
    values = lens.summary({"standard": standard, "adhd": found}, lens.chance(planted))
    assert values["rise_L2"].value > 0.5 and values["largest_in"] == "L2 in 3 of 3 models" and values["rises_adhd"]
    total = found.regulation[:, 3].log10() - math.log10(5 / 512)
    assert values["share_L2"].value == pytest.approx(float((torch.tensor(found.rise("regulation", 2)) / total).mean()))
    assert values["adhd_L2"].value == pytest.approx(found.regulation[:, 3].mean().item())
    assert values["standard_times_uniform"].value >= values["standard_L0"].value * 512 / 5 - 1e-6
    assert [e.value for e in found.by_layer("regulation")][3] > [e.value for e in found.by_layer("regulation")][2]


def test_a_model_that_says_nothing_is_at_chance() -> None:
    blank = models()
    blank.parameters["embed.W_E"].zero_()
    found = lens.at_onsets(blank, OF)
    torch.testing.assert_close(found.regulation, torch.full((3, 4), 5 / 512))
    torch.testing.assert_close(found.lift, torch.ones(3, 4))
    assert lens.chance(blank) == math.log10(5 / 512) and blank.tokenizer.vocabulary < 512
