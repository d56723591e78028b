"""Transformers: the clean task hides its answer, seeds train as a batch, training resumes to the same bytes."""

import pytest
import torch

from husai import grokking, models
from husai.config import ModelConfig, TaskConfig
from husai.models import Acceptance, Models, forward, initialise
from husai.tasks import fourier_basis, sequences

TINY = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32, steps=60, batch_size=32)


def untrained(task, config=TINY, seeds=(0, 1)):
    data = sequences(task)
    return Models(
        config,
        task,
        seeds,
        initialise(config, data.vocabulary, data.tokens.shape[1], seeds),
        (0,) * len(seeds),
    )


def test_reading_one_position_equals_reading_them_all():
    task = TaskConfig(p=7)
    model, data = untrained(task), sequences(task)
    tokens = data.tokens.expand(2, *data.tokens.shape)
    everywhere = forward(model.parameters, tokens, TINY)
    assert torch.allclose(
        everywhere[:, :, data.position], forward(model.parameters, tokens, TINY, data.position), atol=1e-5
    )


def test_attention_is_causal():
    task = TaskConfig(p=7, format="leaked")
    model, data = untrained(task), sequences(task)
    tokens = data.tokens[:9].expand(2, 9, 7).clone()
    before = forward(model.parameters, tokens, TINY)
    tokens[:, :, 5] = 3
    after = forward(model.parameters, tokens, TINY)
    assert torch.allclose(before[:, :, :5], after[:, :, :5], atol=1e-6) and not torch.allclose(
        before[:, :, 5], after[:, :, 5]
    )


def test_a_wrong_answer_moves_only_the_leaked_model(tmp_path):
    """The leaked model copies whatever answer it is fed; the clean one has no place for it."""
    config = ModelConfig(
        n_layers=1, d_model=32, n_heads=2, d_mlp=64, steps=150, batch_size=64, weight_decay=0.01, bf16=False
    )
    task = TaskConfig(p=11, format="leaked", train_fraction=0.8)
    model = grokking.load(grokking.trained(task, config, (0,)), task, config, "final")
    data = sequences(task)
    wrong = data.tokens.clone()
    wrong[:, 5] = (wrong[:, 5] + 4) % 11
    assert (model.logits(data.tokens).argmax(-1) == data.answers).float().mean() > 0.95
    assert (model.logits(wrong).argmax(-1) == (data.answers + 4) % 11).float().mean() > 0.95
    clean = sequences(TaskConfig(p=11))
    assert clean.tokens.shape[1] == 5 and not any(name == "c" for name in clean.names)


def test_seeds_of_a_batch_train_as_they_would_alone(tmp_path):
    task, config = (
        TaskConfig(p=7),
        ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=32, steps=30, batch_size=16, bf16=False),
    )
    both = grokking.load(grokking.trained(task, config, (4, 5)), task, config, "final")
    alone = grokking.load(grokking.trained(task, config, (5,)), task, config, "final")
    for name, value in alone.parameters.items():
        assert torch.allclose(value[0], both.parameters[name][1], atol=2e-3), name


def test_interrupted_training_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    task = TaskConfig(p=7)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    grokking.train(task, TINY, (0, 1), whole)
    steps, real = [], grokking._step

    def crash(*arguments):
        steps.append(1)
        if len(steps) == 40:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(grokking, "_step", crash)
    with pytest.raises(KeyboardInterrupt):
        grokking.train(task, TINY, (0, 1), broken)
    monkeypatch.setattr(grokking, "_step", real)
    grokking.train(task, TINY, (0, 1), broken)
    names = sorted(path.name for path in whole.iterdir())
    assert (
        names
        == sorted(path.name for path in broken.iterdir())
        == [
            "best.safetensors",
            "curve.jsonl",
            "final.safetensors",
            "step_0.safetensors",
            "step_25.safetensors",
            "step_50.safetensors",
            "step_60.safetensors",
        ]
    )
    assert all((whole / name).read_bytes() == (broken / name).read_bytes() for name in names)


def test_best_is_the_highest_held_out_accuracy_of_the_curve():
    task = TaskConfig(p=7)
    folder = grokking.trained(task, TINY, (0, 1))
    best, curve = grokking.load(folder, task, TINY), grokking.curve(folder)
    for index, step in enumerate(best.steps):
        scores = {entry["step"]: entry["held_out"][index] for entry in curve}
        assert scores[step] == max(scores.values())


def test_acceptance_knows_a_fourier_embedding_from_a_random_one_and_says_why():
    task = TaskConfig(p=29)
    model = untrained(task, seeds=(0,))
    planted = model.parameters["embed.W_E"].clone()
    planted[0, :29] = fourier_basis(29)[[5, 6, 11, 12]].float().T @ torch.randn(4, 16)
    model = model._replace(parameters={**model.parameters, "embed.W_E": planted})
    assert models.acceptance(model, frequencies=2)[0].concentration == pytest.approx(1, abs=1e-5)
    assert models.acceptance(untrained(task, seeds=(0,)), frequencies=2)[0].concentration < 0.6
    with pytest.raises(ValueError, match="seed 0: held-out accuracy"):
        models.require_accepted(model)
    assert Acceptance(3, 0.9995, 0.95, 0.01).failures() == []
    assert len(Acceptance(3, 0.5, 0.5, 0.5).failures()) == 3
