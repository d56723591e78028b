"""The site of parts 6 and 7: the activations and the SAEs that several notebooks ask for by the same call."""

from typing import NamedTuple

from husai import study
from husai.config import TrainConfig
from husai.language.collect import TextActivations, collect
from husai.language.pretrained import LanguageModel, load
from husai.recipes import converged
from husai.study import Study
from husai.text.corpus import PACKAGES, Corpus, reference

HOOK = "blocks.2.hook_resid_post"
"""After three of the six layers."""
SEEDS = (0, 1, 2, 3, 4)
"""SAE seeds of the shared study."""


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
    packages: tuple[str, ...] = tuple(PACKAGES),
) -> Site:
    """Return the pretrained encoder on the reference corpus; equal arguments give one artifact, whoever asks."""
    model, corpus = load(name), reference(packages)
    return Site(model, corpus, hook, collect(model, corpus, hook, tokens, context))


def text_recipe(d_sae: int = 512, steps: int = 2560) -> TrainConfig:
    """Return the recipe of the shared study; k is chosen by description length, as everywhere in the book."""
    return converged(d_sae, "auto", steps)


def text_study(site: Site, d_sae: int = 512, steps: int = 2560, seeds: tuple[int, ...] = SEEDS) -> Study:
    """Return the SAEs of the shared study, trained or loaded."""
    return study.run({"text": (site.text.acts, text_recipe(d_sae, steps))}, seeds)["text"]
