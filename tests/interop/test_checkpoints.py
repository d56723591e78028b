"""Checkpoints that the real sparsify and dictionary_learning saved give the latents that these compute."""

import json

import pytest
import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.utils import load_dictionary
from sparsify import SparseCoder, SparseCoderConfig

from husai import formats

D, F, K = 32, 96, 6
X = torch.randn(200, D, generator=torch.Generator().manual_seed(1)) * 2


def randomise(module):
    """Give every parameter random values; thresholds are positive."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=draw) / 5)
            tensor.copy_(tensor.abs() if name == "threshold" else tensor)
        if "threshold" in dict(module.named_buffers()):
            module.threshold.fill_(0.3)
    return module


def agrees(one, z, out):
    """Whether our SAE selects the same latents, with the same values and reconstruction but for rounding."""
    assert 0 < (z != 0).float().mean() < 0.9
    ours = one.encode(X)
    same = torch.equal(ours[0] != 0, z != 0) and torch.allclose(ours[0], z, atol=1e-5)
    return same and torch.allclose(one.decode(ours)[0], out, atol=1e-4)


@pytest.mark.parametrize("d_in", [D, F])  # F: a square matrix
@torch.no_grad()
def test_sparsify(tmp_path, d_in, monkeypatch):
    coder = randomise(SparseCoder(d_in, SparseCoderConfig(num_latents=F, k=K)))
    coder.save_to_disk(tmp_path)
    if d_in == F:
        monkeypatch.setitem(globals(), "X", torch.randn(200, F) * 2)
    acts, indices, _ = SparseCoder.load_from_disk(tmp_path).encode(X)
    z = torch.zeros(len(X), F).scatter(-1, indices, acts)
    assert agrees(formats.read(tmp_path), z, coder.decode(acts, indices))


@pytest.mark.parametrize(
    ("dictionary", "k"),
    [
        (AutoEncoderTopK(D, F, K), K),
        (BatchTopKSAE(D, F, K), K),
        (MatryoshkaBatchTopKSAE(D, F, K, [24, 72]), K),
        (AutoEncoder(D, F), None),
        (AutoEncoderNew(D, F), None),
        (JumpReluAutoEncoder(D, F), None),
        (GatedAutoEncoder(D, F), None),
        (AutoEncoderTopK(D, D, K), K),  # a square matrix
    ],
    ids=lambda value: type(value).__name__,
)
@torch.no_grad()
def test_dictionary_learning(tmp_path, dictionary, k):
    randomise(dictionary)
    if isinstance(dictionary, AutoEncoder):
        dictionary.normalize_decoder()  # as its loader does, see below
    torch.save(dictionary.state_dict(), tmp_path / "ae.pt")
    sizes = {"activation_dim": D, "dict_size": dictionary.dict_size, **({"k": k} if k else {})}
    cfg = {"trainer": {"dict_class": type(dictionary).__name__, "seed": 7, **sizes}}
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    real, _ = load_dictionary(str(tmp_path), "cpu")
    z = real.encode(X)
    one = formats.read(tmp_path)
    assert one.seeds == (7,) and agrees(one, z, real.decode(z))


@torch.no_grad()
def test_rows_that_the_loader_of_dictionary_learning_normalises_stay_as_stored(tmp_path):
    """Its latents are ours times the norms of their rows, and its reconstruction is ours."""
    stored = randomise(AutoEncoder(D, F))
    torch.save(stored.state_dict(), tmp_path / "ae.pt")
    cfg = {"trainer": {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": F}}
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    real, _ = load_dictionary(str(tmp_path), "cpu")
    one, norms = formats.read(tmp_path), stored.decoder.weight.norm(dim=0)
    assert (norms - 1).abs().max() > 0.1 and agrees(one, stored.encode(X), stored(X))
    assert torch.allclose(one.encode(X)[0] * norms, real.encode(X), atol=1e-4)
    assert torch.allclose(one.decode(one.encode(X))[0], real(X), atol=1e-4)


@pytest.mark.parametrize(("trainer", "kind"), [(TopKTrainer, AutoEncoderTopK), (BatchTopKTrainer, BatchTopKSAE)])
def test_the_configuration_that_a_dictionary_learning_trainer_saves(tmp_path, trainer, kind):
    run = trainer(
        steps=10, activation_dim=D, dict_size=F, k=K, layer=0, lm_name="none", dict_class=kind, warmup_steps=1,
        seed=11, device="cpu",
    )  # fmt: skip
    torch.save(run.ae.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": run.config}))
    one = formats.read(tmp_path)
    assert one.seeds == (11,) and one.config.k == K and one.W_enc.shape == (1, D, F)
