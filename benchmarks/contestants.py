"""Who trains TopK SAEs, each driven through its own trainer on the same activations: one call, some steps, seconds."""

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from husai import training
from husai.recipes import converged

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
WARM_UP = 5
FOREVER = 10**9


@dataclass(frozen=True)
class Setting:
    """What everyone trains: the shape of the SAE, and the batch."""

    x: Tensor
    d_sae: int = 1024
    k: int = 32
    batch: int = 256

    def batches(self) -> Iterator[Tensor]:
        """Yield batches of endless fresh permutations of the rows."""
        draw = torch.Generator().manual_seed(1)
        while True:
            order = torch.randperm(len(self.x), generator=draw)
            for first in range(0, len(order) - self.batch + 1, self.batch):
                yield self.x[order[first : first + self.batch]]


class Finished(Exception):
    """Enough steps were handed out."""


class Clock:
    """Batches for a trainer that does not stop by itself: starts after the warm-up, raises `Finished` after `steps`."""

    def __init__(self, setting: Setting, steps: int, wrap: Callable[[Tensor], object] = lambda x: x) -> None:
        self.batches, self.left, self.wrap = setting.batches(), steps + WARM_UP, wrap
        self.steps, self.started, self.seconds = steps, 0.0, 0.0

    def __iter__(self) -> "Clock":
        return self

    def __next__(self) -> object:
        if self.left == self.steps:
            self.started = perf_counter()
        if self.left == 0:
            self.seconds = perf_counter() - self.started
            raise Finished
        self.left -= 1
        return self.wrap(next(self.batches))

    def time(self, drive: Callable[["Clock"], object]) -> float:
        """Return the seconds a step that `drive` takes."""
        with contextlib.suppress(Finished), contextlib.redirect_stderr(io.StringIO()):
            drive(self)
        return self.seconds / self.steps


def loop(step: Callable[[Tensor], object]) -> Callable[[Clock], None]:
    """Return what drives a trainer that is called once a batch."""

    def drive(clock: Clock) -> None:
        for x in clock:
            step(x)

    return drive


def ours(setting: Setting, steps: int, seeds: int = 1, engine: str = "auto") -> float:
    """`training.train`, seeds as one batch: everything that it does, from the initialisation to the folded SAEs."""
    config = replace(converged(setting.d_sae, setting.k, steps=steps), batch_size=setting.batch)
    started = perf_counter()
    training.train(setting.x, config, range(seeds), keep=[], engine=engine)
    return (perf_counter() - started) / steps / seeds


def encoder_product(setting: Setting, steps: int) -> float:
    """The product of a batch with the encoder, and nothing else: the bound that no dense encoder passes."""
    x, encoder = setting.x[: setting.batch], torch.randn(setting.d_sae, setting.x.shape[1])
    out = torch.empty(setting.batch, setting.d_sae)
    started = perf_counter()
    for _ in range(steps):
        torch.mm(x, encoder.T, out=out)
    return (perf_counter() - started) / steps


def encoder_products(setting: Setting, steps: int) -> float:
    """The same with a product of its own on every thread, as seeds are trained here: the harder bound."""
    threads = torch.get_num_threads()

    def work(_: int) -> None:
        torch.set_num_threads(1)
        encoder_product(setting, steps)

    started = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    seconds = perf_counter() - started
    torch.set_num_threads(threads)
    return seconds / steps / threads


def plain_torch(setting: Setting, steps: int) -> float:
    """The shortest honest loop: autograd, dense decoding, Adam, unit rows; no auxiliary loss, no clipping."""
    decoder = torch.nn.functional.normalize(torch.randn(setting.d_sae, setting.x.shape[1]), dim=1)
    encoder, bias, centre = decoder.clone(), torch.zeros(setting.d_sae), torch.zeros(setting.x.shape[1])
    weights = [weight.requires_grad_() for weight in (encoder, decoder, bias, centre)]
    adam = torch.optim.Adam(weights, lr=1e-3)

    def step(x: Tensor) -> None:
        values, indices = torch.addmm(bias, x - centre, encoder.T).topk(setting.k, sorted=False)
        z = torch.zeros(len(x), setting.d_sae).scatter(1, indices, values.relu())
        (z @ decoder + centre - x).square().mean().backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            decoder.div_(decoder.norm(dim=1, keepdim=True))

    return Clock(setting, steps).time(loop(step))


def sparsify(setting: Setting, steps: int) -> float:
    """Its SparseCoder and its default SignSGD by hand, because its Trainer wants a language model."""
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD

    config = SparseCoderConfig(num_latents=setting.d_sae, k=setting.k)
    coder = SparseCoder(setting.x.shape[1], config, device="cpu", dtype=torch.float32)
    optimiser = SignSGD(coder.parameters(), lr=1e-4)

    def step(x: Tensor) -> None:
        optimiser.zero_grad()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        coder.set_decoder_norm_to_unit_norm()

    return Clock(setting, steps).time(loop(step))


def dictionary_learning(setting: Setting, steps: int) -> float:
    """Its TopKTrainer, `update` once a batch."""
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer

    trainer = TopKTrainer(
        steps=FOREVER, activation_dim=setting.x.shape[1], dict_size=setting.d_sae, k=setting.k, layer=0, lm_name="",
        dict_class=AutoEncoderTopK, warmup_steps=1, lr=1e-3, seed=0, device="cpu",
    )  # fmt: skip
    count = itertools.count()
    return Clock(setting, steps).time(loop(lambda x: trainer.update(next(count), x)))


def sae_lens(setting: Setting, steps: int, seeds: int = 1) -> float:
    """Its SAETrainer on one SAE, or its MultiSAETrainer on several."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer
    from sae_lens.training.sae_trainer import SAETrainer

    config = SAETrainerConfig(
        total_training_samples=FOREVER, train_batch_size_samples=setting.batch, lr=1e-3, lr_end=1e-3, device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    shape = TopKTrainingSAEConfig(d_in=setting.x.shape[1], d_sae=setting.d_sae, k=setting.k)
    saes = {str(seed): TopKTrainingSAE(shape) for seed in range(seeds)}
    if seeds == 1:
        drive = lambda clock: SAETrainer(cfg=config, sae=saes["0"], data_provider=clock).fit()  # noqa: E731
        return Clock(setting, steps).time(drive)
    hooks = dict.fromkeys(saes, "x")
    clock = Clock(setting, steps, wrap=lambda x: {"x": x})
    several = lambda clock: MultiSAETrainer(cfg=config, saes=saes, hook_names=hooks, data_provider=clock).fit()  # noqa: E731
    return clock.time(several) / seeds


CONTESTANTS: dict[str, Callable[[Setting, int], float]] = {
    "husai, 8 seeds at once": lambda setting, steps: ours(setting, steps, seeds=8),
    "husai, one seed": ours,
    "husai, 8 seeds, plain torch engine": lambda setting, steps: ours(setting, steps, 8, "autograd"),
    "sparsify (SparseCoder, SignSGD)": sparsify,
    "dictionary_learning (TopKTrainer)": dictionary_learning,
    "SAELens (SAETrainer)": sae_lens,
    "SAELens (MultiSAETrainer, 4 SAEs)": lambda setting, steps: sae_lens(setting, steps, seeds=4),
    "plain torch loop": plain_torch,
    "encoder product, all threads on one": encoder_product,
    "encoder product, a seed a thread": encoder_products,
}
"""Seconds a SAE-step of everyone."""
SAES = {name: 8 if "8 seeds" in name else 4 if "4 SAEs" in name else 1 for name in CONTESTANTS}
"""How many SAEs each of them trains at once."""
