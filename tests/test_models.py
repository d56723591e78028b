"""Transformers: the clean task hides its answer, seeds train as a batch, training resumes to the same bytes."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from husai import activations, grokking, models
from husai.config import ModelConfig, TaskConfig
from husai.models import Acceptance, Models, forward, initialise
from husai.tasks import fourier_basis, sequences, train_mask

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


def reference(parameters, tokens, n_heads):
    """Logits after the last token of one sequence and one seed, each position and head on its own."""
    p = parameters
    residual = [p["embed.W_E"][token] + p["pos_embed.W_pos"][t] for t, token in enumerate(tokens)]
    for layer in range(sum(name.endswith("W_Q") for name in p)):
        w = {name.split(".")[-1]: value for name, value in p.items() if name.startswith(f"blocks.{layer}.")}
        q, k, v = ([(x @ w[name]).chunk(n_heads) for x in residual] for name in ("W_Q", "W_K", "W_V"))
        after = []
        for t, x in enumerate(residual):
            heads = []
            for h in range(n_heads):
                scores = torch.stack([q[t][h] @ k[s][h] / math.sqrt(len(q[t][h])) for s in range(t + 1)])
                heads.append(sum(weight * v[s][h] for s, weight in enumerate(scores.softmax(0))))
            middle = x + torch.cat(heads) @ w["W_O"]
            after.append(middle + (middle @ w["W_in"] + w["b_in"]).relu() @ w["W_out"] + w["b_out"])
        residual = after
    return residual[-1] @ p["unembed.W_U"]


def pairs(format, *rows):
    """Tokens of one list of pairs a seed, p = 5."""
    tokens = sequences(TaskConfig(p=5, format=format)).tokens
    return torch.stack([tokens[list(row)] for row in rows])


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("tokens", "read"),
    [
        (pairs("clean", range(9), range(4, 13)), 4),  # seeds share some pairs
        (pairs("leaked", range(12), range(0, 24, 2)), 5),
        (pairs("leaked", [3] * 8 + [7], [7] * 9), 5),  # two pairs, again and again: all prefixes are shared
        (pairs("clean", [11], [2]), 4),  # one sequence: nothing to share
        (pairs("clean", range(9), range(9)), 2),
        (pairs("clean", range(9), range(9)), 0),
        (torch.arange(48).reshape(2, 6, 4) ** 2 % 7, 3),  # prefixes of no task
    ],
    ids=["overlap", "leaked", "repeated", "single", "prefix", "first token", "arbitrary"],
)
def test_the_model_is_the_textbook_transformer_in_value_and_gradient(n_layers, tokens, read):
    config = ModelConfig(n_layers, d_model=8, n_heads=2, d_mlp=12)
    drawn = initialise(config, 9, 7, (0, 1))
    parameters = {
        name: (value + 0.1 * torch.randn(value.shape)).double().requires_grad_() for name, value in drawn.items()
    }
    naive = torch.stack(
        [
            torch.stack(
                [
                    reference({name: value[seed] for name, value in parameters.items()}, row[: read + 1], 2)
                    for row in rows
                ]
            )
            for seed, rows in enumerate(tokens)
        ]
    )
    found = forward(parameters, tokens, config, read)
    assert torch.allclose(found, naive, atol=1e-12)
    everywhere = forward(parameters, tokens, config)
    assert torch.allclose(everywhere[:, :, read], naive, atol=1e-12)
    weights = torch.randn(naive.shape, dtype=torch.float64)
    wanted, got, plain = (
        torch.autograd.grad((out * weights).sum(), list(parameters.values()))
        for out in (naive, found, everywhere[:, :, read])
    )
    for name, a, b, c in zip(parameters, wanted, got, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-12) and torch.allclose(a, c, atol=1e-12), name


def products(run):
    """Floating-point operations in matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(("format", "pairwise"), [("clean", 2), ("leaked", 3)])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_only_what_depends_on_the_pair_is_computed_per_pair(n_layers, format, pairwise):
    """Per pair: W_O, MLP and unembedding at the read-out; in a block before, also the positions that know the pair.

    Everything else is for p rows or fewer a position.
    """
    config = ModelConfig(n_layers, d_model=16, n_heads=2, d_mlp=64)
    task = TaskConfig(p=23, format=format)
    data, model = sequences(task), untrained(task, config, (0,))
    tokens, d, m = data.tokens[None], 16, 64
    attention, after = 2 * d * d, 2 * d * d + 4 * d * m
    per_pair = after + 2 * d * data.vocabulary
    if n_layers == 2:
        per_pair += pairwise * (after + 2 * attention) + attention  # queries only at the read-out
    per_operand = 3 * 2 * attention + (3 * (after + 3 * attention) if n_layers == 2 else 0) + 6 * attention
    least = per_pair * 23**2
    found = products(lambda: forward(model.parameters, tokens, config, data.position))
    assert least < found <= least + per_operand * 2 * 23
    assert products(lambda: forward(model.parameters, tokens, config)) > 2 * found


def test_tokens_and_positions_that_do_not_exist_are_refused():
    model, tokens = untrained(TaskConfig(p=7)), sequences(TaskConfig(p=7)).tokens[None, :3].expand(2, -1, -1)
    with pytest.raises(ValueError, match=r"tokens is \(0, 11\); wanted ids in 0..10"):
        forward(model.parameters, torch.where(tokens == 10, 11, tokens), TINY, 4)
    with pytest.raises(ValueError, match="read is 5; wanted a position in 0..4"):
        forward(model.parameters, tokens, TINY, 5)
    with pytest.raises(ValueError, match="tokens is '10 positions long'; wanted at most 5 positions"):
        forward(model.parameters, tokens.repeat(1, 1, 2), TINY, 4)


def test_hooks_see_every_position_and_change_nothing_by_looking():
    task, shapes = TaskConfig(p=7), {}
    model, data = untrained(task), sequences(task)
    looked = model.logits(data.tokens, hooks=lambda name, value: shapes.update({name: value.shape}))
    assert torch.allclose(looked, model.logits(data.tokens), atol=1e-5)
    assert len(shapes) == 13 and {shape[:3] for shape in shapes.values()} == {(2, 49, 5)}
    moved = model.logits(data.tokens, hooks=lambda name, value: 0 * value if name == "hook_embed" else None)
    assert torch.allclose(moved, moved[:, :1].expand_as(moved)) and not torch.allclose(moved, looked)


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


@pytest.mark.parametrize("operation", ["multiplication", "combined_drawn", "copy"])
def test_other_operations_are_trained_without_their_held_out_sequences(operation):
    """Shared prefixes give the logits of the whole sequence, two positions more or not."""
    task = TaskConfig(p=7, operation=operation)
    model, data = untrained(task), sequences(task)
    whole = forward(model.parameters, data.tokens.expand(2, *data.tokens.shape), TINY)
    assert torch.allclose(model.logits(data.tokens), whole[:, :, data.position], atol=1e-5)
    masks = torch.stack([train_mask(task, seed) for seed in model.seeds])
    assert model.held_out() == model.accuracy(~masks) != model.accuracy(masks)
    with pytest.raises(ValueError, match=f"models is '{operation}'; wanted models of addition"):
        models.acceptance(model)
    with pytest.raises(ValueError, match=f"models is '{operation}'; wanted models of addition"):
        activations.explained(model)


def test_the_substrate_knows_operations_and_checkpoints():
    copy = grokking.substrate("clean", [0], p=11, steps=60, operation="copy")
    early = grokking.substrate("clean", [0], p=11, steps=60, operation="copy", checkpoint="step_25")
    assert copy.held_out()[0] > 0.95 and (copy.steps, early.steps) == ((60,), (25,))
    assert not torch.equal(copy.parameters["embed.W_E"], early.parameters["embed.W_E"])


def test_best_is_the_highest_held_out_accuracy_of_the_curve():
    task = TaskConfig(p=7)
    folder = grokking.trained(task, TINY, (0, 1))
    best, curve = grokking.load(folder, task, TINY), grokking.curve(folder)
    for index, step in enumerate(best.steps):
        scores = {entry["step"]: entry["held_out"][index] for entry in curve}
        assert scores[step] == max(scores.values())


def test_a_curve_says_when_each_seed_first_got_there():
    entries = [
        {"step": 25 * i, "held_out": [a, b, 0.5]}
        for i, (a, b) in enumerate([(0.1, 0.2), (0.999, 0.4), (0.9, 1.0), (1, 1)])
    ]
    assert grokking.reached(entries) == [25, 50, None]
    assert grokking.reached(entries, 0.15) == [25, 0, 0]


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
