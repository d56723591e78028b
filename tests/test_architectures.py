"""Every architecture is its published definition: row-by-row oracles, gradients, and the truth it recovers."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from husai import architectures, engines, metrics, saes, study, training
from husai.architectures import ARCHITECTURES
from husai.architectures.base import Weights
from husai.architectures.matryoshka import prefixes
from husai.config import NAMES, SAEConfig, TrainConfig
from husai.engines import Data
from husai.recipes import converged
from husai.saes import SAEBatch
from husai.tasks import generator, sparse_dictionary

D, WIDTH = 6, 12
CONFIGS = {
    "topk": SAEConfig("topk", WIDTH, 3),
    "signed": SAEConfig("topk", WIDTH, 3, signed=True),
    "relu": SAEConfig("relu", WIDTH, 3, l1=0.1),
    "batch_topk": SAEConfig("batch_topk", WIDTH, 3),
    "jump_relu": SAEConfig("jump_relu", WIDTH, 3, l1=0.1, bandwidth=0.8),
    "gated": SAEConfig("gated", WIDTH, 3, l1=0.1),
    "matryoshka": SAEConfig("matryoshka", WIDTH, 3),
    "matryoshka with groups": SAEConfig("matryoshka", WIDTH, 3, groups=(5, 8, 12)),
    "hierarchical_topk": SAEConfig("hierarchical_topk", WIDTH, 3),
    "hierarchical_topk with groups": SAEConfig("hierarchical_topk", WIDTH, 4, groups=(1, 3)),
    "route": SAEConfig("route", WIDTH, 3, layers=3),
    "switch": SAEConfig("switch", WIDTH, 2, experts=3),
    "aligned": SAEConfig("topk", WIDTH, 3, aligned=True),
    "transcoder": SAEConfig("topk", WIDTH, 3, transcoder=True),
    "gated transcoder": SAEConfig("gated", WIDTH, 3, l1=0.1, transcoder=True),
    "switch transcoder": SAEConfig("switch", WIDTH, 2, experts=3, transcoder=True),
}
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def random_data(config: SAEConfig, rows: int, *leading: int) -> Data:
    """Return activations, or inputs and targets of another width."""
    draw = torch.Generator().manual_seed(1)
    inner = (config.layers, D) if config.layers > 1 else (D,)
    x = torch.randn(*leading, rows, *inner, generator=draw, dtype=torch.float64)
    y = torch.randn(*leading, rows, D - 2, generator=draw, dtype=torch.float64)
    return Data(x, y if config.transcoder else x)


def random_state(config: SAEConfig, seeds: int = 2) -> engines.State:
    """Return SAEs in training whose biases, thresholds and routers are not at their start; two latents are dead."""
    state = training.initial_state(TrainConfig(config, tied_init=False), random_data(config, 4), range(seeds))
    draw = torch.Generator().manual_seed(2)
    for tensor in (state.bias, state.centre, *state.extra.values()):
        tensor += 0.3 * torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
    state.silent[0, 1:3] = 99
    return state


def random_batch(config: SAEConfig, seeds: int = 2) -> SAEBatch:
    """Return SAEs in use, every tensor random."""
    draw = torch.Generator().manual_seed(3)
    d_out = D - 2 if config.transcoder else D
    shapes = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, d_out), "b_dec": (d_out,)}
    shapes |= saes.extra_shapes(config, D)
    tensors = {n: 0.5 * torch.randn(seeds, *s, generator=draw, dtype=torch.float64) for n, s in shapes.items()}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs()
    weights = {name: tensors.pop(name) for name in saes.WEIGHTS}
    return SAEBatch(config, tuple(range(seeds)), **weights, extra=tensors)


def of_seed(weights: Weights, seed: int) -> Weights:
    """Return one seed's weights, without the leading dimension."""
    return Weights(*(w[seed] for w in weights[:4]), {name: w[seed] for name, w in weights.extra.items()})


def largest(values, count: int) -> list[int]:
    """Return the positions of the largest values."""
    return sorted(range(len(values)), key=lambda j: -float(values[j]))[:count]


def naive_input(config: SAEConfig, w: Weights, x: torch.Tensor) -> torch.Tensor:
    """Return what a row's encoder reads."""
    if config.architecture != "route":
        return x
    scores = [sum(layer @ w.extra["W_router"][:, i] for layer in x) for i in range(config.layers)]
    p = (torch.stack(scores) + w.extra["b_router"]).softmax(0)
    best = largest(p, 1)[0]
    return p[best] * x[best]


def naive_pre(config: SAEConfig, w: Weights, x: torch.Tensor) -> torch.Tensor:
    """Return a row's pre-activations, latent by latent."""
    shift = torch.zeros(D) if config.transcoder else w.centre
    return torch.stack([row @ (x - shift) + b for row, b in zip(w.encoder, w.bias, strict=True)])


def naive_latents(config: SAEConfig, w: Weights, x: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    """Return a row's latents by the definition of its architecture in use."""
    z, extra = torch.zeros(WIDTH, dtype=x.dtype), w.extra
    name = config.architecture
    if name in ("topk", "hierarchical_topk", "route"):
        for j in largest(pre, config.k):
            z[j] = pre[j] if config.signed else max(pre[j], 0)
    elif name == "switch":
        p = ((x - extra["b_router"]) @ extra["W_router"]).softmax(0)
        expert, size = largest(p, 1)[0], WIDTH // config.experts
        block = pre[expert * size : (expert + 1) * size]
        for j in largest(block, config.k):
            z[expert * size + j] = p[expert] * max(block[j], 0)
    else:
        for j, p in enumerate(pre):
            if name == "relu":
                z[j] = max(p, 0)
            elif name in ("batch_topk", "matryoshka"):
                z[j] = p if p > 0 and p > extra["threshold"] else 0
            elif name == "jump_relu":
                z[j] = p if p > (extra["threshold"] if "threshold" in extra else extra["log_threshold"].exp())[j] else 0
            elif name == "gated":
                z[j] = max(extra["r_mag"][j].exp() * (p - w.bias[j]) + extra["b_mag"][j], 0) if p > 0 else 0
    return z


def naive_training_latents(config: SAEConfig, w: Weights, x: list, pre: list) -> list[torch.Tensor]:
    """Return the latents of one seed's batch: only BatchTopK's depend on the whole batch."""
    if config.architecture not in ("batch_topk", "matryoshka"):
        return [naive_latents(config, w, row, p) for row, p in zip(x, pre, strict=True)]
    flat = torch.cat(pre)
    z = torch.zeros_like(flat)
    for j in largest(flat, config.k * len(x)):
        z[j] = max(flat[j], 0)
    return list(z.split(WIDTH))


def naive_loss(config: SAEConfig, w: Weights, x: list, target: list, pre: list, z: list) -> float:
    """Return one seed's loss without AuxK, row by row."""
    total, name, count = 0.0, config.architecture, len(x)

    def error(row: int, code: torch.Tensor) -> float:
        wanted = target[row] - w.centre - sum(c * d for c, d in zip(code, w.decoder, strict=True))
        return float(wanted.square().sum()) / (len(wanted) * count)

    for i in range(count):
        if name == "matryoshka":
            widths = prefixes(config)
            total += sum(error(i, z[i] * (torch.arange(WIDTH) < m)) for m in widths) / len(widths)
        elif name == "hierarchical_topk":
            budgets = config.groups or range(1, config.k + 1)
            masks = [torch.tensor([j in largest(z[i], m) for j in range(WIDTH)]) for m in budgets]
            total += sum(error(i, z[i] * mask) for mask in masks) / len(masks)
        elif name == "route":
            total += error(i, z[i]) * len(target[i]) / float(target[i].square().sum())
        else:
            total += error(i, z[i])
        if name == "relu":
            total += config.l1 * float(sum(z[i])) / count
        if name == "jump_relu":
            total += config.l1 * int(sum(pre[i] > w.extra["log_threshold"].exp())) / count
        if name == "gated":
            total += config.l1 * float(sum(pre[i].relu())) / count + error(i, pre[i].relu())
    if name == "switch":
        p = [((row - w.extra["b_router"]) @ w.extra["W_router"]).softmax(0) for row in x]
        chosen = [largest(row, 1)[0] for row in p]
        shares = [(chosen.count(i) / count, float(sum(row[i] for row in p)) / count) for i in range(config.experts)]
        total += config.balance * config.experts * sum(f * mean for f, mean in shares)
    return total


def naive_auxk(config: SAEConfig, w: Weights, target: list, pre: list, z: list, dead: list[int]) -> float:
    """Return the mean squared rest of the residual after its strongest dead latents."""
    total = 0.0
    for y, p, code in zip(target, pre, z, strict=True):
        rest = y - w.centre - code @ w.decoder
        for j in [dead[i] for i in largest(p[dead], len(y) // 2)]:
            rest = rest - max(p[j], 0) * w.decoder[j]
        total += float(rest.square().mean()) / len(z)
    return total if dead else 0.0


def test_every_architecture_has_a_file_that_counts_in_an_artifact_s_address():
    files = {path.stem for path in Path(architectures.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert files == set(NAMES) == set(ARCHITECTURES) == {c.architecture for c in CONFIGS.values()}
    assert {f"architectures.{name}" for name in files | {"base"}} | {"architectures", "engines"} <= set(study.MODULES)


@every
def test_encoding_in_use_follows_its_definition_row_by_row(config):
    many, x = random_batch(config), random_data(config, 7).x
    z, x_hat = many.encode(x), many.decode(many.encode(x))
    weights = Weights(many.W_enc.transpose(1, 2), many.b_enc, many.W_dec, many.b_dec, many.extra)
    assert 0 < (z != 0).double().mean() < 1
    for seed in range(2):
        w = of_seed(weights, seed)
        for i, row in enumerate(x):
            read = naive_input(config, w, row - many.extra["b_in"][seed] if "b_in" in many.extra else row)
            wanted = naive_latents(config, w, read, naive_pre(config, w, read))
            assert torch.allclose(z[seed, i], wanted, atol=1e-12)
            assert torch.allclose(x_hat[seed, i], wanted @ w.decoder + w.centre, atol=1e-12)


@every
def test_the_training_loss_follows_its_definition_row_by_row(config):
    state, batch = random_state(config), random_data(config, 8, 2)
    recipe = TrainConfig(config, dead_after=50)
    terms, fired = engines.loss(state, batch, recipe)
    for seed in range(2):
        w = of_seed(state.weights(config), seed)
        x = [naive_input(config, w, row) for row in batch.x[seed]]
        target = list(batch.y[seed]) if config.transcoder else x
        pre = [naive_pre(config, w, row) for row in x]
        z = naive_training_latents(config, w, x, pre)
        dead = [j for j in range(WIDTH) if state.silent[seed, j] >= 50]
        assert float(terms[seed, 0]) == pytest.approx(naive_loss(config, w, x, target, pre, z), abs=1e-10)
        assert float(terms[seed, 1]) == pytest.approx(naive_auxk(config, w, target, pre, z, dead), abs=1e-10)
        assert fired[seed].tolist() == [any(row[j] != 0 for row in z) for j in range(WIDTH)]


def gradients(state: engines.State, batch: Data, config: SAEConfig) -> engines.State:
    """Return the gradients of the loss without AuxK, in place of the weights."""
    leaves = [t.requires_grad_() for t in (*state[:4], *state.extra.values())]
    engines.loss(state, batch, TrainConfig(config, auxk=0.0))[0].sum().backward()
    found = [leaf.grad for leaf in leaves]
    return state._replace(
        encoder=found[0], bias=found[1], decoder=found[2], centre=found[3],
        extra=dict(zip(state.extra, found[4:], strict=True)),
    )  # fmt: skip


def test_jump_relu_has_the_published_straight_through_gradients():
    """Threshold: the rectangle around it; encoder: only open gates, and nothing from the penalty."""
    config = CONFIGS["jump_relu"]
    state, batch = random_state(config), random_data(config, 50, 2)
    found = gradients(state, batch, config)
    for seed in range(2):
        with torch.no_grad():
            w = of_seed(Weights(*(t.clone() for t in state.weights(config)[:4]), dict(state.extra)), seed)
        theta, near = w.extra["log_threshold"].exp(), 0
        want, want_encoder = torch.zeros(WIDTH, dtype=torch.float64), torch.zeros(WIDTH, D, dtype=torch.float64)
        for row in batch.x[seed]:
            pre = naive_pre(config, w, row).detach()
            error = naive_latents(config, w, row, pre) @ w.decoder + w.centre - row
            for j in range(WIDTH):
                slope = float(2 * error @ w.decoder[j]) / (50 * D)
                inside = abs(pre[j] - theta[j]) / config.bandwidth < 0.5
                near += bool(inside)
                want[j] -= inside * (theta[j] * slope + config.l1 / 50) / config.bandwidth
                want_encoder[j] += (pre[j] > theta[j]) * slope * (row - w.centre).detach()
        assert near > 20
        assert torch.allclose(found.extra["log_threshold"][seed], want * theta, atol=1e-12)  # chain rule of exp
        assert torch.allclose(found.encoder[seed], want_encoder, atol=1e-12)


def test_the_auxiliary_path_of_gated_teaches_the_gate_but_not_the_decoder():
    config = CONFIGS["gated"]
    batch = random_data(config, 20, 2)
    found = gradients(random_state(config), batch, config)
    state = random_state(config)
    leaves = [t.requires_grad_() for t in state[:4]]
    z = ARCHITECTURES["gated"].encode(engines.forward(state, batch.x, config), config).detach()
    (batch.x - state.centre.detach()[:, None] - z @ state.decoder).square().mean((1, 2)).sum().backward()
    assert torch.allclose(found.decoder, leaves[2].grad, atol=1e-12)
    assert found.bias.abs().min() > 0  # also of gates that pass nothing on


@pytest.mark.parametrize("name", ["route", "switch"])
def test_the_router_learns(name):
    config = CONFIGS[name]
    found = gradients(random_state(config), random_data(config, 20, 2), config)
    assert found.extra["W_router"].abs().amax((1, 2)).min() > 1e-4


def test_batch_topk_selects_for_each_seed_apart():
    config = CONFIGS["batch_topk"]
    state, x = random_state(config, 3), random_data(config, 8, 3).x
    encode = ARCHITECTURES["batch_topk"].encode
    before = encode(engines.forward(state, x, config), config)
    x[0] *= 100
    state.encoder[0] *= 7
    after = encode(engines.forward(state, x, config), config)
    assert torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0])
    assert (before != 0).sum((1, 2)).tolist() == [3 * 8] * 3


def test_the_batch_topk_threshold_is_the_mean_smallest_kept_activation_also_where_rows_are_ordered():
    config = CONFIGS["batch_topk"]
    pres = [torch.randn(2, 8, WIDTH, dtype=torch.float64) for _ in range(3)]
    pres[1][1] = -1  # nothing positive: does not count
    kept = [[sorted(pre[seed].flatten().tolist())[-24:] for pre in pres] for seed in range(2)]
    smallest = [[min(v for v in batch if v > 0) for batch in rows if max(batch) > 0] for rows in kept]
    found = ARCHITECTURES["batch_topk"].buffers(iter(pres), config)["threshold"]
    assert found.tolist() == pytest.approx([sum(row) / len(row) for row in smallest])
    x = sparse_dictionary(16, 32, 3, 4000, seed=0).activations
    x = x[x.norm(dim=1).argsort()]
    result = training.train(x, TrainConfig(SAEConfig("batch_topk", 32, 3), steps=200, batch_size=64), [1]).saes
    assert result.quality(x, x.mean(0))[0]["l0"] == pytest.approx(3, abs=0.15)


def test_route_says_which_layer_it_read_and_is_judged_on_what_it_read():
    many, x = random_batch(CONFIGS["route"]), random_data(CONFIGS["route"], 9).x
    routed, layer = many.route(x)
    weights = Weights(many.W_enc.transpose(1, 2), many.b_enc, many.W_dec, many.b_dec, many.extra)
    for seed in range(2):
        for i, row in enumerate(x - many.extra["b_in"][seed]):
            wanted = naive_input(many.config, of_seed(weights, seed), row)
            assert torch.allclose(routed[seed, i], wanted)
            cosines = torch.nn.functional.cosine_similarity(wanted, row, dim=-1)
            assert cosines.argmax() == layer[seed, i]
    fvu = metrics.fvu(routed[1], many[1].decode(many[1].encode(x))[0], routed[1].mean(0))
    assert many.quality(x, x.mean(0))[1]["fvu"] == pytest.approx(fvu)
    with pytest.raises(ValueError, match="architecture is 'topk'; wanted 'route'"):
        random_batch(CONFIGS["topk"]).route(x)


def test_matryoshka_widths_are_distinct_also_in_a_small_dictionary():
    assert prefixes(SAEConfig("matryoshka", 64, 3)) == [4, 8, 16, 32, 64]
    assert prefixes(SAEConfig("matryoshka", 5, 3)) == [1, 2, 5]


# ---------------------------------------------------------------------------------------------------------------------
# trained: short runs that are shared, in float64


def recipe(config: SAEConfig) -> TrainConfig:
    return TrainConfig(config, steps=50, batch_size=64, dead_after=5)


def truth(config: SAEConfig, a: float = 1.0, b: float = 0.0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return activations (stacked for `route`), a x + b, and the transcoder's targets, a^2 y - b."""
    n = 1000 * config.layers
    known = sparse_dictionary(D, 20, 2, n, seed=0)
    x = known.activations.double()
    other = torch.randn(20, D - 2, generator=generator(0, "test/other"), dtype=torch.float64)
    targets = {"targets": a * a * (known.codes.double() @ other) - b} if config.transcoder else {}
    return (a * x + b).reshape(1000, *([config.layers] if config.layers > 1 else []), D), targets


@cache
def trained(name: str, seeds: tuple[int, ...], a: float = 1.0, b: float = 0.0) -> SAEBatch:
    x, targets = truth(CONFIGS[name], a, b)
    return training.train(x, recipe(CONFIGS[name]), seeds, keep=[], engine="autograd", **targets).saes


@pytest.mark.parametrize("name", CONFIGS)
def test_each_seed_of_a_batch_equals_the_seed_alone(name):
    batch, alone = trained(name, (3, 1)), trained(name, (1,))
    tensors = [(getattr(alone, n), getattr(batch[1], n)) for n in saes.WEIGHTS]
    tensors += [(tensor, batch[1].extra[n]) for n, tensor in alone.extra.items()]
    for one, many in tensors:
        assert torch.allclose(one, many, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["jump_relu", "gated", "route", "switch"])
def test_the_architecture_s_own_parameters_are_trained(name):
    raw = replace(recipe(CONFIGS[name]), standardise=False)  # so that they come back as they were in training
    ends = training.train(truth(CONFIGS[name])[0], raw, (1,), keep=[0]).checkpoints
    for key, start in ends[0].extra.items():
        assert key == "b_in" or not torch.allclose(start, ends[50].extra[key], atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_standardising_folds_away(name):
    """Data shifted and scaled before training give the same SAE in their own units: latents scale, the rest follows."""
    plain, moved = trained(name, (1,)), trained(name, (1,), 7.0, 3.0)
    (x, targets), (x_moved, targets_moved) = truth(CONFIGS[name]), truth(CONFIGS[name], 7.0, 3.0)
    z, z_moved = plain.encode(x), moved.encode(x_moved)
    scale, shift = (49, -3) if targets else (7, 0 if name == "route" else 3)  # a routed input is less its mean
    assert (z != 0).any() and torch.allclose(scale * z, z_moved, atol=1e-6)
    assert torch.allclose(scale * plain.decode(z) + shift, moved.decode(z_moved), atol=1e-6)
    mean, mean_moved = (t.get("targets", v).mean(0) for t, v in ((targets, x), (targets_moved, x_moved)))
    one, other = plain.quality(x, mean, **targets)[0], moved.quality(x_moved, mean_moved, **targets_moved)[0]
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_keeps_every_tensor_and_seeds_come_apart_and_together(name, tmp_path):
    many, x = trained(name, (3, 1)), truth(CONFIGS[name])[0]
    saes.save(many, tmp_path)
    again = saes.load(tmp_path)
    assert again.config == many.config and again.seeds == (3, 1)
    assert torch.equal(again.encode(x), many.encode(x))
    swapped = saes.stack([many[1], many[0]])
    assert swapped.seeds == (1, 3) and torch.allclose(swapped.encode(x), many.encode(x).flip(0), atol=1e-12)


def test_aligned_encoder_rows_have_cosine_one_with_their_decoder_rows_by_construction():
    batch, free = trained("aligned", (3, 1)), trained("topk", (3, 1))
    assert torch.allclose((batch.W_enc.transpose(1, 2) * batch.W_dec).sum(-1), torch.ones(2, WIDTH).double())
    assert batch.W_enc.norm(dim=1).mean() > 1.001  # the free part has moved
    assert ((free.W_enc.transpose(1, 2) * free.W_dec).sum(-1) - 1).abs().mean() > 1e-3


FAST = {"lr": 3e-3, "decay_share": 0.8}
RECOVERS = {
    "topk": (converged(32, 3), 0.84),
    "signed": (converged(32, 3, signed=True), 0.84),
    "relu": (converged(32, 3, architecture="relu", l1=0.05), 0.83),
    "batch_topk": (converged(32, 3, architecture="batch_topk"), 0.8),
    "jump_relu": (converged(32, 3, architecture="jump_relu", l1=0.04), 0.82),
    "gated": (converged(32, 3, architecture="gated", l1=0.1), 0.76),
    "matryoshka": (converged(32, 3, architecture="matryoshka", groups=(24, 32)), 0.7),
    "hierarchical_topk": (converged(32, 3, architecture="hierarchical_topk"), 0.85),
    "route": (converged(32, 3, architecture="route", layers=3), 0.83),
    "switch": (converged(64, 3, architecture="switch", experts=2), 0.94),
    "aligned": (converged(32, 3, aligned=True), 0.86),
    "annealed": (replace(converged(32, 3), k_start=4.0), 0.81),
    "transcoder": (converged(32, 3, transcoder=True), 0.81),
}
"""Level that each seed of a short run must reach: what two seeds were measured at, less .05."""


@pytest.mark.parametrize("name", RECOVERS)
def test_recovers_a_known_dictionary(name):
    """Far above the matched-size null, each to its own stated level.

    The null is .45; .54 for the 64 latents of `switch`, .51 in the 12 dimensions of the transcoder's targets.
    `route` reads three layers that share the dictionary; the transcoder's targets are the same codes over other atoms.
    """
    config, level = RECOVERS[name]
    rows = 20_000 * config.sae.layers
    known = sparse_dictionary(16, 32, 3, rows, seed=0)
    x, atoms, targets = known.activations, known.atoms, {}
    if config.sae.layers > 1:
        x = x.reshape(20_000, config.sae.layers, 16)
    if config.sae.transcoder:
        atoms = torch.nn.functional.normalize(torch.randn(32, 12, generator=generator(0, "test/outputs")), dim=1)
        targets = {"targets": known.codes @ atoms}
    found = training.train(x, replace(config, steps=2000, **FAST), [1, 2], keep=[], **targets).saes
    assert min(metrics.recovery(decoder, atoms) for decoder in found.W_dec) > level
