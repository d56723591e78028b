"""Our folders in the real sae_lens and its folders in ours: the same latents to the bit."""

import json

import pytest
import sae_lens
import torch
from sae_lens import SAE
from safetensors.torch import load_file

from husai import formats, saes
from husai.config import SAEConfig
from husai.saes import SAEBatch

D, F, K = 32, 96, 6
X = torch.randn(200, D, generator=torch.Generator().manual_seed(1)) * 2
HERE = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu"}


def ours(architecture):
    """Return a random SAE with unit rows."""
    draw = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(1, F, D, generator=draw), dim=-1)
    extra = {
        "jump_relu": {"threshold": torch.rand(1, F, generator=draw)},
        "batch_topk": {"threshold": torch.rand(1, generator=draw)},
        "matryoshka": {"threshold": torch.rand(1, generator=draw)},
        "gated": {"r_mag": torch.rand(1, F, generator=draw), "b_mag": torch.rand(1, F, generator=draw)},
    }.get(architecture, {})
    W_enc = W_dec.mT.contiguous() + torch.randn(1, D, F, generator=draw) / 20
    b_enc, b_dec = torch.randn(1, F, generator=draw) / 10, torch.randn(1, D, generator=draw)
    groups = (F // 4, F) if architecture == "matryoshka" else ()
    return SAEBatch(SAEConfig(architecture, F, K, groups=groups), (3,), W_enc, b_enc, W_dec, b_dec, extra)


def theirs(name, **options):
    """Return a random SAE of a class of sae_lens, whose decoder rows differ in length."""
    torch.manual_seed(0)
    sae = getattr(sae_lens, name)(getattr(sae_lens, f"{name}Config")(**HERE, **options))
    with torch.no_grad():
        for tensor in sae.parameters():
            tensor.copy_(torch.randn_like(tensor) / 5)
        sae.W_dec.mul_(torch.logspace(-0.5, 0.5, F)[:, None])
        if hasattr(sae, "threshold"):
            sae.threshold.abs_()
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.3)
    return sae


def latents(sae):
    """Return what sae_lens encodes, after a check that it selects some latents and not all."""
    with torch.no_grad():
        z = sae.encode(X)
    assert 0 < (z != 0).float().mean() < 0.9
    return z


@pytest.mark.parametrize("architecture", ["topk", "relu", "jump_relu", "batch_topk", "matryoshka"])
def test_sae_lens_computes_the_same_latents_from_our_folder_to_the_bit(tmp_path, architecture):
    one = ours(architecture)
    formats.write_sae_lens(one, tmp_path, {"hook_name": "blocks.0.hook_resid_post", "mine": {"a": [1]}})
    real = SAE.load_from_disk(tmp_path)
    z = latents(real)
    assert torch.equal(z, one.encode(X)[0])
    assert torch.equal(real.decode(z), one.decode(z[None])[0])
    assert real.cfg.metadata.hook_name == "blocks.0.hook_resid_post" and real.cfg.metadata.mine == {"a": [1]}


def test_sae_lens_computes_the_same_gated_latents(tmp_path):
    one = ours("gated")
    formats.write_sae_lens(one, tmp_path)
    z = latents(SAE.load_from_disk(tmp_path))  # W_enc exp(r_mag) there, exp(r_mag) (x W_enc) here
    assert torch.equal(z != 0, one.encode(X)[0] != 0) and torch.allclose(z, one.encode(X)[0], atol=1e-5)


@pytest.mark.parametrize("architecture", ["topk", "relu", "jump_relu", "batch_topk", "matryoshka", "gated"])
def test_our_configuration_and_seed_survive_a_stay_in_sae_lens(tmp_path, architecture):
    one = ours(architecture)
    formats.write_sae_lens(one, tmp_path / "ours")
    SAE.load_from_disk(tmp_path / "ours").save_model(tmp_path / "theirs")
    again = formats.read(tmp_path / "theirs")
    assert again.config == one.config and again.seeds == one.seeds
    assert torch.equal(again.encode(X), one.encode(X))


@pytest.mark.parametrize(
    ("name", "options", "architecture"),
    [
        ("TopKSAE", {"k": K}, "topk"),
        ("StandardSAE", {}, "relu"),
        ("JumpReLUSAE", {}, "jump_relu"),
    ],
)
def test_folders_of_inference_saes_give_the_same_latents_to_the_bit(tmp_path, name, options, architecture):
    real = theirs(name, **options)
    real.save_model(tmp_path)
    one = formats.read(tmp_path)
    assert one.config.architecture == architecture and torch.equal(one.encode(X)[0], latents(real))
    assert torch.equal(one.W_dec[0], real.W_dec)  # rows stay as long as they are


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StandardTrainingSAE", {}),
        ("TopKTrainingSAE", {"k": K, "rescale_acts_by_decoder_norm": False}),
        ("BatchTopKTrainingSAE", {"k": K}),
        ("MatryoshkaBatchTopKTrainingSAE", {"k": K, "matryoshka_widths": [24, F]}),
        ("JumpReLUTrainingSAE", {}),
    ],
)
def test_training_saes_saved_for_use_give_the_same_latents_to_the_bit(tmp_path, name, options):
    theirs(name, **options).save_inference_model(tmp_path)
    one = formats.read(tmp_path)
    assert torch.equal(one.encode(X)[0], latents(SAE.load_from_disk(tmp_path)))
    trained = {"BatchTopK": "batch_topk", "Matryoshka": "matryoshka", "TopK": "topk", "Standard": "relu"}
    wanted = next((ours for start, ours in trained.items() if name.startswith(start)), "jump_relu")
    assert one.config.architecture == wanted
    assert one.config.groups == tuple(options.get("matryoshka_widths", ()))


@pytest.mark.parametrize("save", ["save_model", "save_inference_model"])
def test_rescaling_by_decoder_norms_is_folded_to_the_same_function(tmp_path, save):
    real = theirs("TopKTrainingSAE", k=K)
    assert real.cfg.rescale_acts_by_decoder_norm
    getattr(real, save)(tmp_path)
    one, real = formats.read(tmp_path), SAE.load_from_disk(tmp_path)
    assert real.cfg.rescale_acts_by_decoder_norm  # a file for use keeps the flag, on rows already unit
    z, ours = latents(real), one.encode(X)
    assert torch.equal(ours[0] != 0, z != 0) and torch.allclose(ours[0], z, atol=1e-5)
    assert torch.allclose(one.decode(ours)[0], real.decode(z), atol=1e-4)
    real.fold_W_dec_norm()
    real.cfg.rescale_acts_by_decoder_norm = False
    assert torch.equal(ours[0], latents(real))  # to the bit once sae_lens has folded too


def test_a_batchtopk_checkpoint_is_read_as_what_sae_lens_would_save_for_use(tmp_path):
    real = theirs("BatchTopKTrainingSAE", k=K)
    real.save_model(tmp_path / "checkpoint")
    real.save_inference_model(tmp_path / "use")
    checkpoint, use = formats.read(tmp_path / "checkpoint"), formats.read(tmp_path / "use")
    assert checkpoint.config == use.config and torch.equal(checkpoint.encode(X), use.encode(X))


@pytest.mark.parametrize("name", ["StandardSAE", "GatedSAE"])
def test_a_decoder_bias_only_at_the_output_is_folded(tmp_path, name):
    real = theirs(name, apply_b_dec_to_input=False)
    real.save_model(tmp_path)
    one, z = formats.read(tmp_path), latents(real)
    assert torch.allclose(one.encode(X)[0], z, atol=1e-5)
    assert torch.allclose(one.decode(one.encode(X))[0], real.decode(z), atol=1e-4)


def test_a_checkpoints_activation_scale_is_folded_to_the_same_reconstruction(tmp_path):
    real = theirs("TopKTrainingSAE", k=K, normalize_activations="expected_average_only_in")
    real.save_model(tmp_path)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.4, "has_whitening": False}))
    one = formats.read(tmp_path)
    real.fold_activation_norm_scaling_factor(0.4)
    assert torch.allclose(one.decode(one.encode(X))[0], real.decode(latents(real)), atol=1e-4)


def test_a_configuration_from_before_version_6_is_read_alike(tmp_path):
    formats.write_sae_lens(ours("topk"), tmp_path)
    old = {
        "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "d_in": D,
        "d_sae": F, "dtype": "torch.float32", "device": "cuda", "hook_name": "blocks.7.hook_resid_pre",
        "hook_layer": 7, "hook_head_index": None, "finetuning_scaling_factor": False, "normalize_activations": "none",
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    assert torch.equal(formats.read(tmp_path).encode(X)[0], latents(SAE.load_from_disk(tmp_path)))


def test_sae_lens_refuses_the_folder_of_our_own_save(tmp_path):
    saes.save(ours("topk"), tmp_path)
    assert load_file(tmp_path / "sae_weights.safetensors")["W_enc"].ndim == 3
    with pytest.raises((KeyError, TypeError)):  # it must not misread a stack of seeds
        SAE.load_from_disk(tmp_path)
