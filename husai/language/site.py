"""The site of parts 6 and 7: the activations and the SAEs that several notebooks ask for by the same call."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from husai import study
from husai.activations import Activations
from husai.config import TrainConfig
from husai.language.collect import TextActivations, collect
from husai.language.pretrained import LanguageModel, load
from husai.recipes import converged
from husai.study import Study
from husai.text.corpus import PACKAGES, Corpus, lines, reference

HOOK = "blocks.2.hook_resid_post"
"""After three of the six layers."""
SEEDS = (0, 1, 2, 3, 4)
"""SAE seeds of the shared study."""
K = 32
"""Active latents, the sources' number at 512. Description length would choose 8, where an SAE explains too little of
the variance for the gates of `book/quality.toml`; agreement between seeds was not looked at."""


class Site(NamedTuple):
    """A model, a corpus, and the model's activations on it at one hook."""

    model: LanguageModel
    corpus: Corpus
    hook: str
    text: TextActivations


def text_site(
    tokens: int = 100_000,
    context: int = 64,
    hook: str = HOOK,
    name: str = "minilm",
    packages: Sequence[str] = tuple(PACKAGES),
    path: str = "",
) -> Site:
    """Return the pretrained encoder on the reference corpus; equal arguments give one artifact, whoever asks.

    A `path` names a text file to read instead of the reference corpus. ValueError: as `load`, `reference`, `lines` and
    `collect`.
    """
    model = load(name)
    corpus = lines(Path(path)) if path else reference(packages)
    return Site(model, corpus, hook, collect(model, corpus, hook, tokens, context))


def arms(site: Site, context: int = 64, seed: int = 0) -> dict[str, list[Activations]]:
    """Return what a stability score is compared on, as `activations.arms`: the site's activations, N4 and N5.

    N4 shuffles them; N5 collects as many of the same text from the model with its weights drawn anew.
    """
    real = site.text.acts
    random = collect(site.model.randomised(seed), site.corpus, site.hook, len(real.values), context)
    return {"real": [real], "N4": [real.shuffled(seed)], "N5": [random.acts]}


def text_recipe(d_sae: int = 512, steps: int = 2560, k: int = K) -> TrainConfig:
    """Return the recipe of the shared study: the converged one, with k fixed."""
    return converged(d_sae, k, steps)


def text_study(site: Site, d_sae: int = 512, steps: int = 2560, seeds: Sequence[int] = SEEDS, k: int = K) -> Study:
    """Return the SAEs of the shared study, trained or loaded."""
    return study.run({"text": (site.text.acts, text_recipe(d_sae, steps, k))}, seeds)["text"]
