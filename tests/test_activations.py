"""Activations are the model's own, at the hook and position asked for, and their split never mixes."""

import pytest
import torch

from husai import activations, artifacts, shards
from husai.activations import Activations
from husai.config import ModelConfig, TaskConfig
from husai.models import Models, initialise
from husai.tasks import sequences

CONFIG, TASK = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32), TaskConfig(p=7)


def model(seeds=(0, 1, 2)):
    data = sequences(TASK)
    return Models(CONFIG, TASK, seeds, initialise(CONFIG, data.vocabulary, 5, seeds), (0,) * len(seeds))


def test_collected_rows_give_the_models_own_logits():
    """The last residual at the read-out, times the unembedding, is the logits: an oracle for hook and position."""
    three = model()
    for index, acts in enumerate(activations.collect(three, "blocks.1.hook_resid_post")):
        logits = acts.values @ three.parameters["unembed.W_U"][index]
        assert torch.allclose(logits, three.logits(sequences(TASK).tokens)[index], atol=1e-5)


@pytest.mark.parametrize("position", [1, 3, None])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_stream_after_a_block_is_what_the_whole_model_has_there(layer, position):
    """Collected from a model that ends there, at one position; and no bytes depend on the other models."""
    three, data, hook = model(), sequences(TASK), f"blocks.{layer}.hook_resid_post"
    seen = {}
    three.logits(data.tokens, hooks=lambda name, value: seen.update({name: value.clone()}))
    found = activations.collect(three, hook, position)
    for index, acts in enumerate(found):
        wanted = seen[hook][index, :, data.position if position is None else position]
        assert torch.allclose(acts.values, wanted, atol=1e-5)
        assert torch.equal(activations.collect(three.select(index), hook, position)[0].values, acts.values)


def test_embedding_hook_at_a_position_is_that_tokens_row():
    three, data = model(), sequences(TASK)
    acts = activations.collect(three, "hook_embed", position=3)[1]
    assert torch.equal(acts.values, three.parameters["embed.W_E"][1, data.tokens[:, 3]])


def test_an_unknown_hook_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="hook is 'blocks.9.hook_resid_post'.*blocks.1.hook_resid_post"):
        activations.collect(model(), "blocks.9.hook_resid_post")


def test_split_holds_out_a_fifth_and_whole_holds_out_nothing():
    acts = activations.split(torch.randn(50, 4), seed=0)
    assert len(acts.fit) == 40 and len(acts.held_out) == 10
    assert len(acts.whole().fit) == len(acts.whole().held_out) == 50
    with pytest.raises(ValueError, match="values is"):
        activations.split(torch.full((5, 2), float("inf")), seed=0)


def test_a_subsample_keeps_the_held_out_rows_and_a_share_of_the_others():
    acts = activations.split(torch.randn(50, 4), seed=0)
    half, again, other = acts.subsample(0.5, 3), acts.subsample(0.5, 3), acts.subsample(0.5, 4)
    assert torch.equal(half.held_out, acts.held_out) and len(half.fit) == len(acts.fit) / 2
    rows = {tuple(row) for row in acts.fit.tolist()}
    assert {tuple(row) for row in half.fit.tolist()} < rows
    assert torch.equal(half.values, again.values) and not torch.equal(half.values, other.values)
    assert torch.equal(acts.subsample(1.0, 0).values, acts.values)
    with pytest.raises(ValueError, match="share is 0.0; wanted a share above 0"):
        acts.subsample(0.0, 0)


@pytest.mark.parametrize("rows_per_shard", [10, 1000])
def test_extracted_shards_are_the_collected_rows_with_the_same_split_and_mean(tmp_path, rows_per_shard):
    hook = "blocks.1.hook_resid_post"
    found = activations.extract(model(), hook, tmp_path, rows_per_shard=rows_per_shard)
    for ours, wanted in zip(found, activations.collect(model(), hook), strict=True):
        assert torch.equal(ours.values.load(), wanted.values) and ours.name == ours.values.name == wanted.name
        assert torch.equal(ours.training, wanted.training) and torch.equal(ours.mean, wanted.mean)
        assert torch.equal(ours.fit.load(), wanted.fit) and torch.equal(ours.held_out, wanted.held_out)
        assert artifacts.content_hash(ours.fit) == artifacts.content_hash(wanted.fit)
    assert torch.equal(shards.read(tmp_path / "seed_2").load(), found[2].values.load())


def test_extraction_refuses_an_unknown_hook_and_leaves_no_shards(tmp_path):
    with pytest.raises(ValueError, match="hook is 'hook_nowhere'"):
        activations.extract(model(), "hook_nowhere", tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_what_needs_all_rows_in_memory_refuses_shards(tmp_path):
    acts = activations.extract(model((0,)), "hook_embed", tmp_path, position=1)[0]
    for needs in (lambda: acts.gaussian(0), lambda: acts.shuffled(0), lambda: acts.whole().held_out):
        with pytest.raises(ValueError, match="x is shards, 'seed_0'; wanted a tensor"):
            needs()


def test_no_more_is_held_out_than_is_judged_in_memory(monkeypatch):
    monkeypatch.setattr(activations, "HELD_OUT", 7)
    acts = activations.split(torch.randn(50, 4), seed=0)
    assert len(acts.held_out) == 7 and len(acts.fit) == 43
    few = activations.split(torch.randn(50, 4), seed=0, held_out=0.1)
    assert len(few.held_out) == 5


def test_arms_share_split_and_shape_and_the_random_model_is_another_one():
    arms = activations.arms(model(), "blocks.1.hook_resid_post")
    for real, shuffled, random in zip(arms["real"], arms["N4"], arms["N5"], strict=True):
        assert real.values.shape == shuffled.values.shape == random.values.shape
        assert torch.equal(real.training, shuffled.training)
        assert not torch.allclose(real.values, random.values, atol=0.1)
        centred = [a.values - a.values.mean(0) for a in (real, shuffled)]
        assert torch.allclose(centred[0].square().sum(), centred[1].square().sum(), rtol=1e-3)


def test_type_is_a_plain_record():
    acts = Activations(torch.zeros(3, 2), torch.tensor([True, True, False]), "x")
    assert acts.mean.tolist() == [0, 0] and acts.name == "x"


def test_explained_is_the_correlation_ratio_and_its_parts_are_of_one_whole():
    three, data = model(), sequences(TASK)
    found = activations.explained(three)
    assert found.positions == data.names and found.hooks[0] == "hook_embed" and len(found.hooks) == 13
    hook, label = (
        "blocks.1.hook_resid_post",
        {"a": data.tokens[:, 1], "b": data.tokens[:, 3], "c": data.answers},
    )
    for index, acts in enumerate(activations.collect(three, hook)):
        x = acts.values.double() - acts.values.double().mean(0)
        for factor, groups in label.items():
            between = sum(x[groups == g].mean(0).square().sum() * (groups == g).sum() for g in range(7))
            assert found.at(factor, hook, "=")[index] == pytest.approx(float(between / x.square().sum()), abs=1e-6)
    valid = found.shares[~found.shares.isnan()]
    assert bool((valid >= 0).all()) and bool((found.shares.nansum(0) <= 1 + 1e-5).all())


def test_explained_at_an_operand_is_that_operand_and_a_constant_has_no_share():
    found = activations.explained(model())
    assert found.at("a", "hook_embed", "a") == pytest.approx([1, 1, 1]) == found.at("b", "hook_embed", "b")
    assert found.at("c", "hook_embed", "a") == pytest.approx([0, 0, 0], abs=1e-6)
    assert found.table("a")[found.hooks.index("blocks.1.hook_resid_post"), 0].isnan(), "BOS sees nothing"
