"""The stability report of SAEs that the real SAELens and dictionary_learning trained: planted features are matched."""

import pytest
import torch
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import save_file

report = pytest.importorskip("husai.report")

D, ATOMS, K, STEPS, BATCH, LR = 24, 16, 3, 800, 256, 3e-3
CORE = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0][:ATOMS]  # orthonormal


def data(seed, batches=None):
    """Yield batches of activations: K of the planted features, each with a size of its own."""
    draw = torch.Generator().manual_seed(seed)
    while batches is None or (batches := batches - 1) >= 0:
        codes = torch.zeros(BATCH, ATOMS)
        active = torch.rand(BATCH, ATOMS, generator=draw).topk(K).indices
        codes.scatter_(1, active, 1 + torch.rand(BATCH, K, generator=draw))
        yield codes @ CORE


def by_sae_lens(folder, seed):
    torch.manual_seed(seed)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=ATOMS, k=K, device="cpu"))
    cfg = SAETrainerConfig(total_training_samples=STEPS * BATCH, train_batch_size_samples=BATCH, lr=LR, lr_end=LR)
    SAETrainer(cfg, sae, data(seed)).fit().save_inference_model(folder)
    return folder


def by_dictionary_learning(folder, seed):
    cfg = {
        "trainer": TopKTrainer, "dict_class": AutoEncoderTopK, "activation_dim": D, "dict_size": ATOMS, "k": K,
        "steps": STEPS, "seed": seed, "device": "cpu", "layer": 0, "lm_name": "none", "lr": LR, "warmup_steps": 10,
    }  # fmt: skip
    trainSAE(data(seed + 10, STEPS), [cfg], STEPS, save_dir=str(folder), device="cpu")
    return folder / "trainer_0"


def test_planted_features_are_matched_between_the_libraries(tmp_path):
    folders = [by_sae_lens(tmp_path / f"lens_{seed}", seed) for seed in (1, 2)]
    folders += [by_dictionary_learning(tmp_path / f"dl_{seed}", seed) for seed in (3, 4)]
    save_file({"activations": torch.cat(list(data(99, 8)))}, tmp_path / "acts.safetensors")
    found = report.evaluate(folders, tmp_path / "acts.safetensors")
    assert [one["format"] for one in found["inputs"]] == ["sae_lens"] * 2 + ["dictionary_learning"] * 2
    rows = {(row["name"], row["latents"], row["threshold"]): row for row in found["scores"]}
    assert max(one["fvu"] for one in found["quality"]) < 0.3, found["quality"]
    for i in range(4):  # what was planted is what the report should find in common
        decoder = torch.nn.functional.normalize(report.inputs.open_inputs(folders)[i].rows(0, ATOMS), dim=1)
        learnt = int(((decoder @ CORE.T).amax(0) > 0.8).sum())
        assert learnt >= ATOMS - 4 and found["matched"][i]["in_none"] <= 4
    across = rows["shared", "alive", 0.7]["matrix"][0][2]
    assert across >= 0.7 and rows["hungarian_mcc", "alive", None]["N0"]["gap"]["low"] > 0.1
    assert sum(found["features"]["matched"]) / len(found["features"]["matched"]) > 2
