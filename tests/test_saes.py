"""An SAE batch reads back what it wrote, comes apart into its seeds, and refuses what contradicts itself."""

import json
from dataclasses import replace

import pytest
import torch

from husai import saes
from husai.artifacts import read_tensors, write_tensors
from husai.config import SAEConfig
from husai.saes import SAEBatch


def batch(config=None, seeds=(1, 2, 3), d_model=10):
    config = config or SAEConfig(d_sae=24, k=4)
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (d_model, config.d_sae),
        "b_enc": (config.d_sae,),
        "W_dec": (config.d_sae, d_model),
        "b_dec": (d_model,),
    }
    return SAEBatch(config, seeds, **{n: torch.randn(len(seeds), *s, generator=draw) for n, s in shapes.items()})


def test_one_seed_of_a_batch_is_a_batch_of_one():
    many, x = batch(), torch.randn(7, 10)
    assert len(many[1]) == 1 and many[1].seeds == (2,) and many[-1].seeds == (3,)
    assert torch.equal(many[-1].W_dec[0], many.W_dec[2])
    assert torch.allclose(many[1].encode(x)[0], many.encode(x)[1], atol=1e-6)
    with pytest.raises(ValueError, match="index is 3"):
        many[3]


def test_perfect_and_useless_saes_have_fvu_zero_and_one():
    eye = torch.eye(10)[None]
    perfect = SAEBatch(SAEConfig(d_sae=10, k=10, signed=True), (0,), eye, torch.zeros(1, 10), eye, torch.zeros(1, 10))
    x = torch.rand(500, 10) + 0.5  # no entry is exactly zero, so every latent fires
    row = perfect.quality(x, x.mean(0))[0]
    assert row["fvu"] == pytest.approx(0, abs=1e-6) and row["l0"] == pytest.approx(10) and row["alive"] == 1
    dead = SAEBatch(perfect.config, (0,), 0 * eye, torch.zeros(1, 10), eye, x.mean(0)[None])
    assert dead.quality(x, x.mean(0))[0]["fvu"] == pytest.approx(1, abs=1e-5)


def test_round_trip_and_faults(tmp_path):
    many = batch()
    saes.save(many, tmp_path)
    again = saes.load(tmp_path)
    assert again.config == many.config and again.seeds == many.seeds
    assert all(torch.equal(getattr(many, n), getattr(again, n)) for n in saes.WEIGHTS)
    (tmp_path / "sae_weights.safetensors").write_bytes((tmp_path / "sae_weights.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="sae_weights.safetensors"):
        saes.load(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="readable cfg.json"):
        saes.load(tmp_path)


def rewrite(folder, entries=(), tensors=()):
    """Change entries of cfg.json and tensors of the weights file; None removes."""
    config = {**json.loads((folder / "cfg.json").read_text()), **dict(entries)}
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    weights = {**read_tensors(folder / "sae_weights.safetensors")[0], **dict(tensors)}
    write_tensors(folder / "sae_weights.safetensors", {k: v for k, v in weights.items() if v is not None})


@pytest.mark.parametrize(
    "entries, tensors, words",
    [
        ({"d_sae": 25}, {}, r"W_dec is \(3, 24, 10\); wanted \(3, 25, 10\)"),
        ({"k": None}, {}, "cfg.json is .*; wanted .*'k'"),
        ({"seeds": None}, {}, "cfg.json that lists its seeds"),
        ({"architecture": "gru"}, {}, "architecture is 'gru'; wanted one of topk"),
        ({"hook_name": "x"}, {}, "cfg.json is .*hook_name.*nothing unknown"),
        ({"seeds": [1, 2]}, {}, "W_dec is"),
        ({"k": "4"}, {}, "k is '4'; wanted an integer, or 'auto'"),
        ({"d_sae": "24"}, {}, "d_sae is '24'; wanted an integer"),
        ({"groups": 3}, {}, "groups is 3; wanted a tuple of integers"),
        ({"l1": "x"}, {}, "l1 is 'x'; wanted a finite number"),
        ({}, {"b_dec": torch.zeros(3, 10, dtype=torch.int64)}, "b_dec is torch.int64; wanted a floating-point type"),
        ({}, {"b_enc": torch.full((3, 24), float("nan"))}, "b_enc is 'NaN or infinity'; wanted finite"),
        ({}, {"W_enc": torch.full((3, 10, 24), float("inf"))}, "W_enc is 'NaN or infinity'; wanted finite"),
        ({}, {"b_enc": torch.zeros(3, 24).double()}, "b_enc is torch.float64; wanted torch.float32, as W_dec"),
        ({"architecture": "batch_topk"}, {"threshold": torch.full((3,), float("nan"))}, "threshold is 'NaN"),
        ({}, {"threshold": torch.zeros(3)}, r"extra is \['threshold'\]; wanted \[\]"),
        ({}, {"b_enc": None}, r"sae_weights.safetensors is .*; wanted also \['b_enc'\]"),
        ({}, {"W_dec": torch.zeros(3, 24, 9), "b_dec": torch.zeros(3, 9)}, r"W_dec is \(3, 24, 9\); .*24, 10\)"),
        ({"architecture": "batch_topk"}, {}, r"extra is \[\]; wanted \['threshold'\]"),
        ({"architecture": "jump_relu"}, {"threshold": torch.zeros(3)}, r"threshold is \(3,\); wanted \(3, 24\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_folder_that_contradicts_itself_is_refused(tmp_path, entries, tensors, words):
    saes.save(batch(), tmp_path)
    rewrite(tmp_path, entries, tensors)
    with pytest.raises(ValueError, match=words):
        saes.load(tmp_path)


def test_a_folder_may_leave_out_what_has_a_default(tmp_path):
    saes.save(batch(), tmp_path)
    rewrite(tmp_path, {"bandwidth": None, "groups": None, "aligned": None})
    assert saes.load(tmp_path).config == batch().config


def test_seeds_of_different_shapes_are_not_stacked():
    with pytest.raises(ValueError, match="parts is 'SAEs of several shapes'"):
        saes.stack([batch(), batch(SAEConfig(d_sae=24, k=5))])


def test_bad_activations_are_refused():
    with pytest.raises(ValueError, match="d_model = 10"):
        batch().encode(torch.randn(5, 11))
    with pytest.raises(ValueError, match="NaN"):
        batch().encode(torch.full((5, 10), float("nan")))
    with pytest.raises(ValueError, match="x is torch.int64; wanted .* torch.float32"):
        batch().encode(torch.ones(5, 10, dtype=torch.int64))
    with pytest.raises(ValueError, match="one a seed"):
        batch().encode(torch.randn(2, 5, 10))
    with pytest.raises(ValueError, match="targets is None"):
        transcoder = SAEConfig(d_sae=24, k=4, transcoder=True)
        plain = batch()
        weights = {name: getattr(plain, name) for name in saes.WEIGHTS}
        x = torch.randn(5, 10)
        SAEBatch(transcoder, (1, 2, 3), **weights, extra={"b_in": torch.zeros(3, 10)}).quality(x, x[0])


def test_latents_ordered_by_activity_compute_the_same_and_fire_ever_less(unchecked):
    many, x = batch(), torch.randn(200, 10)
    ordered = saes.by_activity(many, x)
    rates = ordered.firing(x)
    assert bool((rates[:, 1:] <= rates[:, :-1]).all()) and bool((rates[:, 0] > rates[:, -1]).all())
    assert torch.allclose(ordered.reconstruct(x), many.reconstruct(x), atol=1e-5)
    assert torch.equal(rates.sort(dim=1).values, many.firing(x).sort(dim=1).values)
    gated = replace(many, config=SAEConfig("batch_topk", 24, 4), extra={"threshold": torch.zeros(3)})
    with pytest.raises(ValueError, match="architecture is 'batch_topk'"):
        saes.by_activity(gated, x)
