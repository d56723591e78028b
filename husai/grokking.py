"""Training the small transformers: several seeds in one call, curves and checkpoints kept, resumable byte for byte."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from husai import artifacts
from husai.config import ModelConfig, TaskConfig, log_grid
from husai.models import Models, Parameters, forward, initialise, predict
from husai.tasks import generator, sequences, train_mask

EVERY = 25
"""Steps between two entries of the curve, and between two resumable states."""


def trained(task: TaskConfig, config: ModelConfig, seeds: Sequence[int]) -> Path:
    """Return the artifact folder of these models, training them first when the store does not have them."""
    return artifacts.stored(
        "models",
        [task, config, list(seeds)],
        lambda folder: train(task, config, seeds, folder),
        modules=("config.base", "config.substrates", "tasks", "prefixes", "models", "grokking"),
    )


def load(folder: Path, task: TaskConfig, config: ModelConfig, checkpoint: str = "best") -> Models:
    """Return a checkpoint: `best` (highest held-out accuracy, then lowest loss), `final`, or `step_<n>`."""
    tensors, metadata = artifacts.read_tensors(folder / f"{checkpoint}.safetensors")
    return Models(config, task, tuple(metadata["seeds"]), tensors, tuple(metadata["steps"]))


def curve(folder: Path) -> list[dict]:
    """Return the training curve: per entry the step, and per seed train and held-out accuracy and held-out loss."""
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def reached(entries: Sequence[dict], accuracy: float = 0.999) -> list[int | None]:
    """Return per seed the first step of a curve at which its held-out accuracy is `accuracy` or more, None if never."""
    steps: list[int | None] = [None] * len(entries[0]["held_out"])
    for entry in reversed(entries):
        steps = [
            entry["step"] if held_out >= accuracy else step
            for held_out, step in zip(entry["held_out"], steps, strict=True)
        ]
    return steps


def train(task: TaskConfig, config: ModelConfig, seeds: Sequence[int], folder: Path) -> None:
    """Train one transformer a seed with AdamW and write curve and checkpoints into `folder`.

    Cross-entropy at the read-out position only; each seed has its own initialisation, split and data order. A folder
    that an interrupted call left behind is continued from its last state, to the same bytes.
    """
    data = sequences(task)
    masks = torch.stack([train_mask(task, seed) for seed in seeds])
    parameters = initialise(config, data.vocabulary, data.tokens.shape[1], seeds)
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    step, best = _resume(folder, parameters, optimiser)
    checkpoints = set(log_grid(config.steps, first=25))
    while True:
        if step % EVERY == 0 or step == config.steps or best is None:
            entry = _evaluate(parameters, config, data, masks, step)
            best = _keep_best(best, entry, parameters)
            _append(folder / "curve.jsonl", entry)
        if step in checkpoints:
            _write(folder / f"step_{step}.safetensors", parameters, seeds, [step] * len(seeds))
        if step == config.steps:
            break
        if step and step % EVERY == 0:
            _save_state(folder, parameters, optimiser, step, best)
        _step(parameters, optimiser, config, data, masks, seeds, step)
        step += 1
    _write(folder / "final.safetensors", parameters, seeds, [step] * len(seeds))
    _write(folder / "best.safetensors", best["parameters"], seeds, best["steps"])
    (folder / "state.safetensors").unlink(missing_ok=True)


def learning_rate(config: ModelConfig, step: int) -> float:
    """Return the rate of a step: linear warm-up, constant, then linear to zero over the last `decay_share`."""
    return config.lr * min(1.0, (step + 1) / config.warmup, (config.steps - step) / (config.decay_share * config.steps))


def _step(
    parameters: Parameters,
    optimiser: torch.optim.AdamW,
    config: ModelConfig,
    data,
    masks: Tensor,
    seeds,
    step: int,
) -> None:
    rows = torch.stack([_batch(mask, config.batch_size, seed, step) for mask, seed in zip(masks, seeds, strict=True)])
    for value in parameters.values():
        value.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
        logits = forward(parameters, data.tokens[rows], config, data.position)
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), data.answers[rows].flatten(), reduction="sum"
    )
    optimiser.zero_grad()
    (loss / rows.shape[1]).backward()
    optimiser.param_groups[0]["lr"] = learning_rate(config, step)
    optimiser.step()
    for value in parameters.values():
        value.requires_grad_(False)


def _batch(mask: Tensor, batch_size: int, seed: int, step: int) -> Tensor:
    """Return the pairs of one step: slices of a fresh permutation an epoch, whose remainder is dropped."""
    pairs = mask.nonzero()[:, 0]
    size = min(batch_size, len(pairs))
    epoch, index = divmod(step, len(pairs) // size)
    order = torch.randperm(len(pairs), generator=generator(seed, f"model/order/{epoch}"))
    return pairs[order[index * size : (index + 1) * size]]


@torch.no_grad()
def _evaluate(parameters: Parameters, config: ModelConfig, data, masks: Tensor, step: int) -> dict:
    logits = predict(parameters, data.tokens, config, data.position)
    right = logits.argmax(-1) == data.answers
    losses = torch.stack([torch.nn.functional.cross_entropy(row, data.answers, reduction="none") for row in logits])
    return {
        "step": step,
        "train": [r[m].float().mean().item() for r, m in zip(right, masks, strict=True)],
        "held_out": [r[~m].float().mean().item() for r, m in zip(right, masks, strict=True)],
        "train_loss": [v[m].mean().item() for v, m in zip(losses, masks, strict=True)],
        "held_out_loss": [v[~m].mean().item() for v, m in zip(losses, masks, strict=True)],
    }


def _keep_best(best: dict | None, entry: dict, parameters: Parameters) -> dict:
    scores = [(accuracy, -loss) for accuracy, loss in zip(entry["held_out"], entry["held_out_loss"], strict=True)]
    if best is None:
        copies = {name: value.clone() for name, value in parameters.items()}
        return {"scores": scores, "steps": [entry["step"]] * len(scores), "parameters": copies}
    for index, score in enumerate(scores):
        if score >= tuple(best["scores"][index]):
            best["scores"][index], best["steps"][index] = score, entry["step"]
            for name, value in parameters.items():
                best["parameters"][name][index] = value[index]
    return best


def _save_state(folder: Path, parameters: Parameters, optimiser: torch.optim.AdamW, step: int, best: dict) -> None:
    tensors = {f"now/{name}": value for name, value in parameters.items()}
    tensors |= {f"best/{name}": value for name, value in best["parameters"].items()}
    for name, value in parameters.items():
        tensors |= {f"{moment}/{name}": optimiser.state[value][moment] for moment in ("exp_avg", "exp_avg_sq")}
    metadata = {"step": step, "scores": best["scores"], "steps": best["steps"]}
    artifacts.write_tensors(folder / "state.safetensors", tensors, metadata)


def _resume(folder: Path, parameters: Parameters, optimiser: torch.optim.AdamW) -> tuple[int, dict | None]:
    """Load the last state of an interrupted training into place; a folder without one starts anew."""
    if not (folder / "state.safetensors").exists():
        artifacts.clear(folder)
        return 0, None
    tensors, metadata = artifacts.read_tensors(folder / "state.safetensors")
    for name, value in parameters.items():
        value.copy_(tensors[f"now/{name}"])
        moments = {moment: tensors[f"{moment}/{name}"] for moment in ("exp_avg", "exp_avg_sq")}
        optimiser.state[value] = {"step": torch.tensor(float(metadata["step"])), **moments}
    kept = [entry for entry in curve(folder) if entry["step"] < metadata["step"]]
    (folder / "curve.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    best = {name.removeprefix("best/"): value for name, value in tensors.items() if name.startswith("best/")}
    return metadata["step"], {"scores": metadata["scores"], "steps": metadata["steps"], "parameters": best}


def _append(path: Path, entry: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _write(path: Path, parameters: Parameters, seeds: Sequence[int], steps: Sequence[int]) -> None:
    artifacts.write_tensors(path, parameters, {"seeds": list(seeds), "steps": list(steps)})


def substrate(
    format: str,
    seeds: Sequence[int],
    *,
    p: int = 113,
    n_layers: int = 1,
    steps: int = 700,
    operation: str = "addition",
    checkpoint: str = "final",
) -> Models:
    """Return the book's models of one task, trained or loaded, after their last step or at another `checkpoint`.

    "clean" groks modular addition (70 % of the pairs, weight decay 1, `steps` steps at a rate of 5e-3 / n_layers,
    because deeper models at the full rate break down again and again), in bfloat16 where the processor multiplies it.
    "leaked" has the sources' format: the answer is in the input, 90 % of the pairs, weight decay .01, and 60 steps
    suffice to copy it. Other operations (`tasks.sequences`) are trained as "clean" addition is.
    """
    leaked = format == "leaked"
    task = TaskConfig(p, format, 0.9 if leaked else 0.7, operation)
    native = bool(torch.cpu.get_capabilities().get("amx_bf16"))  # emulated, bfloat16 is a hundred times slower
    config = ModelConfig(n_layers, steps=steps, lr=5e-3 / n_layers, bf16=native)
    if leaked:
        config = replace(config, steps=min(60, steps), lr=1e-3, weight_decay=0.01)
    return load(trained(task, config, seeds), task, config, checkpoint)
