"""Foreign SAE folders are read as their formats declare them, and a folder that contradicts itself is refused."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from husai import formats, saes
from husai.config import SAEConfig
from husai.saes import SAEBatch

D, F, K = 6, 16, 3
X = torch.randn(40, D, generator=torch.Generator().manual_seed(1)) * 2
EXTRA = {
    "batch_topk": {"threshold": ()},
    "matryoshka": {"threshold": ()},
    "jump_relu": {"threshold": (F,)},
    "gated": {"r_mag": (F,), "b_mag": (F,)},
}
EXPRESSED = ["topk", "relu", "jump_relu", "batch_topk", "matryoshka", "gated"]


def sae(architecture="topk", seeds=(5,), d_model=D, d_sae=F, unit=True, **config):
    """Return random SAEs whose rows, if not unit, differ much in length."""
    draw, n = torch.Generator().manual_seed(0), len(seeds)
    W_dec = torch.randn(n, d_sae, d_model, generator=draw)
    W_dec = W_dec / W_dec.norm(dim=-1, keepdim=True) if unit else W_dec * torch.logspace(-1, 1, d_sae)[:, None]
    W_enc, b_enc = torch.randn(n, d_model, d_sae, generator=draw), torch.randn(n, d_sae, generator=draw) / 4
    b_dec = torch.randn(n, d_model, generator=draw)
    extra = {name: torch.rand(n, *shape, generator=draw) for name, shape in EXTRA.get(architecture, {}).items()}
    config = SAEConfig(architecture, d_sae, config.pop("k", K), **config)
    return SAEBatch(config, tuple(seeds), W_enc, b_enc, W_dec, b_dec, extra)


def sae_lens(folder, one, drop=(), tensors=None, **entries):
    """Write `one` as sae_lens would, then change entries of cfg.json and tensors; return the folder."""
    formats.write_sae_lens(one, folder)
    cfg = {**json.loads((folder / "cfg.json").read_text()), **entries}
    (folder / "cfg.json").write_text(json.dumps({key: cfg[key] for key in cfg.keys() - set(drop)}))
    if tensors is not None:
        kept = {**load_file(folder / "sae_weights.safetensors"), **tensors}
        save_file({name: kept[name] for name in kept if kept[name] is not None}, folder / "sae_weights.safetensors")
    return folder


def sparsify(folder, one, **entries):
    cfg = {"activation": "topk", "expansion_factor": 32, "num_latents": 0, "k": one.config.k, "d_in": D}
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**cfg, "num_latents": one.config.d_sae, **entries}))
    tensors = {"encoder.weight": one.W_enc[0].T.contiguous(), "encoder.bias": one.b_enc[0]}
    save_file({**tensors, "W_dec": one.W_dec[0], "b_dec": one.b_dec[0]}, folder / "sae.safetensors")
    return folder


def dictionary_learning(folder, dict_class, state, **trainer):
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "ae.pt")
    cfg = {"dict_class": dict_class, "activation_dim": D, "dict_size": F, "seed": 7, **trainer}
    (folder / "config.json").write_text(json.dumps({"trainer": cfg, "buffer": {}}))
    return folder


def topk_state(one):
    """Return the state of dictionary_learning's AutoEncoderTopK and BatchTopKSAE."""
    linear = {"encoder.weight": one.W_enc[0].T, "encoder.bias": one.b_enc[0], "decoder.weight": one.W_dec[0].T}
    return {**linear, "b_dec": one.b_dec[0], "k": torch.tensor(K), "threshold": torch.tensor(0.5)}


def same_function(a, b, atol=0.0):
    """Whether two batches of one have the same latents and the same reconstruction of X."""
    z, w = a.encode(X), b.encode(X)
    return torch.allclose(z, w, atol=atol, rtol=0) and torch.allclose(a.decode(z), b.decode(w), atol=atol, rtol=0)


@pytest.mark.parametrize("architecture", EXPRESSED)
@pytest.mark.parametrize("unit", [True, False])
def test_what_is_written_for_sae_lens_reads_back_as_it_was(tmp_path, architecture, unit):
    groups = {"groups": (4, F)} if architecture == "matryoshka" else {}
    one = sae(architecture, unit=unit, l1=0.25, decoder_bias=False, **groups)
    formats.write_sae_lens(one, tmp_path)
    again = formats.read(tmp_path)
    assert again.config == one.config and again.seeds == one.seeds
    assert all(torch.equal(getattr(again, name), getattr(one, name)) for name in saes.WEIGHTS)
    assert again.extra.keys() == one.extra.keys()
    assert all(torch.equal(again.extra[name], one.extra[name]) for name in one.extra)
    assert (again.encode(X) != 0).any()


def test_batch_topk_is_written_as_jumprelu_with_its_threshold_repeated(tmp_path):
    one = sae("matryoshka")
    formats.write_sae_lens(one, tmp_path)
    cfg, stored = json.loads((tmp_path / "cfg.json").read_text()), load_file(tmp_path / "sae_weights.safetensors")
    assert cfg["architecture"] == "jumprelu"
    assert cfg["metadata"]["training_architecture"] == "matryoshka_batchtopk"
    assert torch.equal(stored["threshold"], one.extra["threshold"].expand(F))


def test_thresholds_that_differ_stay_jump_relu_whatever_they_were_trained_as(tmp_path):
    one, thresholds = sae("batch_topk"), torch.linspace(0.1, 2, F)
    again = formats.read(sae_lens(tmp_path, one, tensors={"threshold": thresholds}))
    assert again.config.architecture == "jump_relu"
    assert torch.equal(again.extra["threshold"][0], thresholds)


@pytest.mark.parametrize(
    ("config", "tag", "reason"),
    [
        (SAEConfig("topk", F, K, signed=True), "husai_signed_topk", "ReLU"),
        (SAEConfig("hierarchical_topk", F, K), "husai_hierarchical_topk", "every budget"),
        (SAEConfig("topk", F, K, transcoder=True), "husai_transcoder_topk", "two sites"),
        (SAEConfig("route", F, K, layers=2), "husai_route", "no router"),
        (SAEConfig("switch", F, K, experts=2), "husai_switch", "no router over experts"),
    ],
)
def test_what_sae_lens_cannot_express_is_refused_with_the_reason_and_leaves_no_file(tmp_path, config, tag, reason):
    one = sae()
    extra = {name: torch.zeros(1, *shape) for name, shape in saes.extra_shapes(config, D).items()}
    odd = SAEBatch(config, one.seeds, one.W_enc, one.b_enc, one.W_dec, one.b_dec, extra)
    with pytest.raises(ValueError, match=f"{tag}.*{reason}"):
        formats.write_sae_lens(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_folders_are_one_batch_and_a_folder_holds_one_seed(tmp_path):
    many = sae(seeds=(3, 9))
    with pytest.raises(ValueError, match="2 seeds.*sae\\[0\\]"):
        formats.write_sae_lens(many, tmp_path)
    folders = [tmp_path / str(seed) for seed in many.seeds]
    for index, folder in enumerate(folders):
        formats.write_sae_lens(many[index], folder)
    again = formats.read(*folders)
    assert again.seeds == (3, 9) and torch.equal(again.W_enc, many.W_enc)
    formats.write_sae_lens(sae(d_model=D + 1), tmp_path / "other")
    with pytest.raises(ValueError, match="folder other"):
        formats.read(*folders, tmp_path / "other")


def test_trap_a_selection_by_decoder_norm_is_honoured_and_its_absence_means_no(tmp_path):
    one = sae(unit=False)
    again = formats.read(sae_lens(tmp_path / "a", one, rescale_acts_by_decoder_norm=True))
    pre = (X - one.b_dec) @ one.W_enc[0] + one.b_enc
    acts = torch.zeros_like(pre)
    for row, values in enumerate(pre * one.W_dec[0].norm(dim=-1)):  # sae_lens 6.54, TopKSAE.encode and decode
        chosen = values.topk(K).indices
        acts[row, chosen] = values[chosen].relu()
    out = (acts / one.W_dec[0].norm(dim=-1)) @ one.W_dec[0] + one.b_dec
    assert torch.allclose(again.encode(X)[0], acts, atol=1e-5)
    assert torch.allclose(again.decode(again.encode(X))[0], out, atol=1e-4)
    assert torch.allclose(again.W_dec.norm(dim=-1), torch.ones(F))
    assert not torch.equal(acts != 0, one.encode(X)[0] != 0)  # the flag matters here
    assert same_function(formats.read(sae_lens(tmp_path / "b", one, drop=["rescale_acts_by_decoder_norm"])), one)


def test_trap_b_a_missing_k_is_never_a_hundred(tmp_path):
    with pytest.raises(ValueError, match="k of the configuration is None"):
        formats.read(sae_lens(tmp_path, sae(), drop=["k"]))


@pytest.mark.parametrize("entry", ["architecture", "dtype", "d_in", "d_sae"])
def test_trap_c_a_missing_entry_is_named(tmp_path, entry):
    with pytest.raises(ValueError, match=f"^{entry} of .* is None"):
        formats.read(sae_lens(tmp_path, sae(), drop=[entry]))


def test_trap_d_a_version_is_always_written_and_custom_metadata_survives(tmp_path):
    formats.write_sae_lens(sae(), tmp_path, {"hook_name": "blocks.0.hook_resid_post", "mine": {"a": [1]}, "seed": 4})
    about = formats.metadata(tmp_path)
    assert int(about["sae_lens_version"].split(".")[0]) >= 6
    assert about["hook_name"] == "blocks.0.hook_resid_post" and about["mine"] == {"a": [1]} and about["seed"] == 5


def test_trap_e_rows_that_are_not_unit_are_kept_where_folding_would_change_the_selection(tmp_path):
    one = sae(unit=False)
    again = formats.read(sae_lens(tmp_path, one, rescale_acts_by_decoder_norm=False))
    assert torch.equal(again.W_dec, one.W_dec) and same_function(again, one)


def test_trap_f_the_device_of_the_file_is_ignored(tmp_path):
    again = formats.read(sae_lens(tmp_path, sae(), device="cuda:7"))
    assert again.W_enc.device.type == "cpu"


def test_trap_g_tensors_that_are_not_contiguous_are_written_and_read_in_their_order(tmp_path):
    one = sae()
    askew = SAEBatch(one.config, one.seeds, one.W_enc.mT.contiguous().mT, one.b_enc, one.W_dec, one.b_dec)
    formats.write_sae_lens(askew, tmp_path)
    again = formats.read(tmp_path)
    assert torch.equal(again.W_enc, one.W_enc) and again.W_enc.is_contiguous()


@pytest.mark.parametrize("architecture", ["topk", "gated"])
def test_a_decoder_bias_only_at_the_output_gives_the_same_function(tmp_path, architecture):
    one = sae(architecture)
    again = formats.read(sae_lens(tmp_path, one, apply_b_dec_to_input=False))
    z = one.encode(X + one.b_dec[0])  # ours subtracts b_dec again
    assert torch.allclose(again.encode(X), z, atol=1e-4)
    assert torch.equal(again.b_dec, one.b_dec)


@pytest.mark.parametrize("architecture", EXPRESSED)
def test_a_known_activation_scale_is_folded_into_raw_units(tmp_path, architecture):
    one, scale = sae(architecture), 2.5
    folder = sae_lens(tmp_path, one, normalize_activations="expected_average_only_in")
    with pytest.raises(ValueError, match="scaling_factor is None"):
        formats.read(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": scale, "has_whitening": False}))
    again = formats.read(folder)
    z = one.encode(X * scale)
    assert torch.allclose(again.encode(X), z / scale, atol=1e-5)
    assert torch.allclose(again.decode(again.encode(X)), one.decode(z) / scale, atol=1e-5)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -2.0, "2", None])
def test_an_activation_scale_that_is_not_finite_and_positive_is_refused(tmp_path, scale):
    folder = sae_lens(tmp_path, sae(), normalize_activations="expected_average_only_in")
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": scale}))
    wanted = f"scaling_factor is {scale!r}; wanted a finite number above 0|activation_scaler.json in it .a number is '"
    with pytest.raises(ValueError, match=wanted):
        formats.read(folder)


@pytest.mark.parametrize(
    ("entry", "value"), [("k", "32"), ("k", 2.0), ("l1", "x"), ("decoder_bias", "no"), ("bandwidth", None)]
)
@pytest.mark.usefixtures("unchecked")
def test_a_recorded_configuration_of_a_wrong_type_is_refused_by_name(tmp_path, entry, value):
    folder = sae_lens(tmp_path, sae("relu"))
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"]["husai"][entry] = value
    (folder / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match=f"^{entry} is {value!r}; wanted"):
        formats.read(folder)


@pytest.mark.usefixtures("unchecked")
def test_widths_of_a_wrong_type_are_refused(tmp_path):
    folder = sae_lens(tmp_path, sae("matryoshka", groups=(4, F)))
    cfg = json.loads((folder / "cfg.json").read_text())
    for widths in (3, [4.5, F], "4"):
        cfg["metadata"]["training_architecture_details"]["matryoshka_widths"] = widths
        (folder / "cfg.json").write_text(json.dumps(cfg))
        with pytest.raises(ValueError, match="^groups is .*; wanted a tuple of integers"):
            formats.read(folder)


@pytest.mark.parametrize("how", ["constant_norm_rescale", "layer_norm", "covariance_whitening"])
def test_a_normalisation_that_weights_cannot_express_is_refused(tmp_path, how):
    with pytest.raises(ValueError, match=f"normalize_activations of cfg.json is '{how}'"):
        formats.read(sae_lens(tmp_path, sae(), normalize_activations=how))


def test_flat_configurations_from_before_version_6_are_read(tmp_path):
    one = sae()
    old = {
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "d_in": D, "d_sae": F, "hook_layer": 7,
        "dtype": "torch.float32", "device": "cuda", "hook_point": "blocks.7.hook_resid_pre", "seed": 42,
        "normalize_activations": False, "prepend_bos": True, "architecture": "standard",
    }  # fmt: skip
    formats.write_sae_lens(one, tmp_path)
    save_file(
        {**load_file(tmp_path / "sae_weights.safetensors"), "scaling_factor": torch.ones(F)},
        tmp_path / "sae_weights.safetensors",
    )
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    again = formats.read(tmp_path)
    assert again.config == SAEConfig("topk", F, K) and again.seeds == (42,) and same_function(again, one)
    assert formats.metadata(tmp_path)["hook_name"] == "blocks.7.hook_resid_pre"
    (tmp_path / "cfg.json").write_text(json.dumps({**old, "activation_fn_kwargs": {}}))
    with pytest.raises(ValueError, match="k of the configuration"):
        formats.read(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({**old, "activation_fn_str": "relu", "activation_fn_kwargs": {}}))
    assert formats.read(tmp_path).config.architecture == "relu"
    (tmp_path / "cfg.json").write_text(json.dumps({**old, "activation_fn_str": "tanh-relu"}))
    with pytest.raises(ValueError, match="tanh-relu"):
        formats.read(tmp_path)


def test_a_batchtopk_training_checkpoint_keeps_its_threshold(tmp_path):
    one = sae("batch_topk")
    checkpoint = {"threshold": None, "topk_threshold": one.extra["threshold"][0].double()}
    folder = sae_lens(tmp_path, one, tensors=checkpoint, architecture="batchtopk", k=2.6)
    again = formats.read(folder)
    assert again.config.architecture == "batch_topk" and again.config.k == 3 and same_function(again, one)


def test_half_precision_is_rounded_as_declared_and_widened(tmp_path):
    one = sae("relu")
    again = formats.read(sae_lens(tmp_path, one, dtype="bfloat16"))
    assert again.W_enc.dtype == torch.float32 and torch.equal(again.W_enc, one.W_enc.bfloat16().float())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"b_enc": None}, "without b_enc"),
        ({"spare": torch.zeros(2)}, "with spare"),
        ({"W_dec": torch.zeros(F, D + 1)}, r"W_dec of .* is \(16, 7\); wanted \(16, 6\)"),
        ({"W_enc": torch.zeros(F, D)}, r"W_enc of .* is \(16, 6\)"),
        ({"b_dec": torch.zeros(D, dtype=torch.int32)}, "b_dec of .*int32"),
        ({"b_dec": torch.full((D,), float("nan"))}, "b_dec of .*NaN"),
        ({"scaling_factor": torch.full((F,), 2.0)}, "with scaling_factor"),
    ],
)
def test_tensors_that_contradict_the_configuration_are_named(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        formats.read(sae_lens(tmp_path, sae(), tensors=tensors))


@pytest.mark.parametrize("architecture", ["topk", "jump_relu"])
def test_a_square_matrix_is_turned_as_declared(tmp_path, architecture):
    one = sae(architecture, d_model=F)
    formats.write_sae_lens(one, tmp_path / "lens")
    assert torch.equal(formats.read(tmp_path / "lens").W_enc, one.W_enc)
    if architecture == "topk":
        foreign = formats.read(
            sparsify(tmp_path / "s", one, d_in=F),
            dictionary_learning(tmp_path / "d", "AutoEncoderTopK", topk_state(one), activation_dim=F, k=K),
        )
        assert torch.equal(foreign.W_enc, one.W_enc.expand(2, F, F))
        assert torch.equal(foreign.W_dec, one.W_dec.expand(2, F, F))


def test_sparsify_folders_are_read(tmp_path):
    one = sae(unit=False)
    again = formats.read(sparsify(tmp_path, one))
    assert again.config == SAEConfig("topk", F, K) and again.seeds == (0,) and same_function(again, one)
    assert formats.read(sparsify(tmp_path, one), tmp_path).seeds == (0, 1)
    wide = sae(d_sae=2 * D)
    assert formats.read(sparsify(tmp_path, wide, num_latents=0, expansion_factor=2)).config.d_sae == 2 * D
    for fault in ({"activation": "groupmax"}, {"transcode": True}, {"skip_connection": True}, {"k": None}):
        with pytest.raises(ValueError, match=f"{[*fault][0]} of"):
            formats.read(sparsify(tmp_path, one, **fault))


def test_dictionary_learning_topk_and_batch_topk_are_read(tmp_path):
    one = sae("batch_topk")
    again = formats.read(dictionary_learning(tmp_path / "a", "AutoEncoderTopK", topk_state(one), k=K))
    assert again.seeds == (7,) and same_function(again, sae("topk"))
    again = formats.read(dictionary_learning(tmp_path / "b", "BatchTopKSAE", topk_state(one), k=K, seed=None))
    assert again.seeds == (0,) and again.config.architecture == "batch_topk"
    pre = (X - one.b_dec) @ one.W_enc[0] + one.b_enc
    assert torch.allclose(again.encode(X)[0], pre * (pre > 0.5), atol=1e-6)
    with pytest.raises(ValueError, match="k of ae.pt is 3; wanted 4"):
        formats.read(dictionary_learning(tmp_path / "c", "AutoEncoderTopK", topk_state(one), k=4))


def test_dictionary_learning_matryoshka_keeps_its_groups_as_prefix_widths(tmp_path):
    one = sae("matryoshka")
    state = {name: getattr(one, name)[0] for name in saes.WEIGHTS}
    state |= {"k": torch.tensor(K), "threshold": one.extra["threshold"][0], "group_sizes": torch.tensor([4, 12])}
    again = formats.read(dictionary_learning(tmp_path, "MatryoshkaBatchTopKSAE", state, k=K))
    assert again.config.groups == (4, 16) and same_function(again, one)


def test_dictionary_learning_classes_without_k_are_read(tmp_path):
    one, shifted = sae("relu"), X + sae("relu").b_dec[0]
    linear = {"encoder.weight": one.W_enc[0].T, "encoder.bias": one.b_enc[0], "decoder.weight": one.W_dec[0].T}
    again = formats.read(dictionary_learning(tmp_path / "a", "AutoEncoder", {**linear, "bias": one.b_dec[0]}))
    assert again.config.architecture == "relu" and same_function(again, one)
    state = {**linear, "decoder.bias": one.b_dec[0]}
    again = formats.read(dictionary_learning(tmp_path / "n", "AutoEncoderNew", state))
    assert torch.allclose(again.encode(X), one.encode(shifted), atol=1e-5)
    jump = sae("jump_relu")
    state = {**{name: getattr(jump, name)[0] for name in saes.WEIGHTS}, "threshold": jump.extra["threshold"][0]}
    again = formats.read(dictionary_learning(tmp_path / "j", "JumpReluAutoEncoder", state))
    assert torch.allclose(again.encode(X), jump.encode(shifted), atol=1e-5)
    gated = sae("gated")
    state = {"encoder.weight": gated.W_enc[0].T, "decoder.weight": gated.W_dec[0].T, "gate_bias": gated.b_enc[0]}
    state |= {"decoder_bias": gated.b_dec[0], "mag_bias": gated.extra["b_mag"][0], "r_mag": gated.extra["r_mag"][0]}
    again = formats.read(dictionary_learning(tmp_path / "g", "GatedAutoEncoder", state))
    assert same_function(again, gated)
    with pytest.raises(ValueError, match="dict_class .* 'IdentityDict'"):
        formats.read(dictionary_learning(tmp_path / "i", "IdentityDict", {}))


class Payload:
    """A pickle of this creates a file when it is opened carelessly."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_a_pickle_with_code_in_it_is_refused_and_nothing_runs(tmp_path, write):
    target, one = tmp_path / "ran", sae()
    folder = dictionary_learning(tmp_path / "ae", "AutoEncoderTopK", topk_state(one), k=K)
    write({**topk_state(one), "b_dec": Payload(target)}, folder / "ae.pt")
    with pytest.raises(ValueError, match="ae.pt.*nothing in this one was run"):
        formats.read(folder)
    assert not target.exists()
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()  # the payload works


def test_a_broken_or_foreign_pickle_is_refused(tmp_path):
    folder = dictionary_learning(tmp_path, "AutoEncoderTopK", topk_state(sae()), k=K)
    whole = (folder / "ae.pt").read_bytes()
    for content in (whole[:-200], b"", b"not a pickle"):
        (folder / "ae.pt").write_bytes(content)
        with pytest.raises(ValueError, match="ae.pt"):
            formats.read(folder)
    torch.save([torch.zeros(2)], folder / "ae.pt")
    with pytest.raises(ValueError, match="ae.pt is 'list'"):
        formats.read(folder)


def test_our_own_folders_are_recognised_and_unknown_ones_say_what_was_looked_for(tmp_path):
    many = sae(seeds=(1, 2))
    saes.save(many, tmp_path / "own")
    assert formats.read(tmp_path / "own").seeds == (1, 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="'empty'.*sae_weights.safetensors.*sae.safetensors.*ae.pt"):
        formats.read(tmp_path / "empty")
    with pytest.raises(ValueError, match="local folder"):
        formats.read("s3://someone/saes")
    sae_lens(tmp_path / "bad", sae())
    (tmp_path / "bad" / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="readable cfg.json"):
        formats.read(tmp_path / "bad")
