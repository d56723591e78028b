"""Effects of stable and unstable latents: planted differences, confounders, and the sources' two measures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import ablations, activations, grokking, interventions, study
from husai.ablations import Effects
from husai.recipes import converged, published

HOOK = "blocks.0.hook_resid_mid"


def made(effect: float, confounded: float = 2.0, seed: int = 0) -> list[list[Effects]]:
    """Return latents whose log10 KL is rate + effect * stable, the stable ones being the commoner."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(4):
        found.append([])
        for _ in range(3):
            stable = rng.random(150) < 0.4
            rate = 2.0 ** (-4 + confounded * stable + 2 * rng.normal(size=150)).clip(-9, 0)
            kl = 10.0 ** (np.log10(rate) + effect * stable + 0.05 * rng.normal(size=150))
            stability = np.where(stable, rng.choice([0.5, 1.0], 150), rng.choice([0.0, 0.25], 150))
            kls = {"own": kl, "double": 4 * kl, "N0": kl / 10, "N2": kl / 2}
            found[-1].append(Effects(stability, rate, np.ones(150), rate, kls))
    return found


@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_a_planted_effect_of_stability_is_found_and_none_is_made_up(effect):
    found = ablations.contrast(made(effect))
    assert found.value == pytest.approx(effect, abs=0.05)
    assert (found.low > 0) == (effect > 0) and found.n == 4
    raw = [one.log_kl["own"][one.stability >= 0.5].mean() - one.log_kl["own"][one.stability == 0].mean()
           for model in made(effect) for one in model]  # fmt: skip
    assert np.mean(raw) > effect + 0.3, "without matching the commoner latents would seem to matter more"


def test_the_null_finds_nothing_and_the_control_finds_what_was_planted():
    found = made(0.5, confounded=0.0)
    null, control = ablations.contrast(found, "permuted"), ablations.contrast(found, "planted")
    assert null.low < 0 < null.high and null.high - null.low < 0.15, "fifty relabellings an SAE, not one"
    assert control.low > 0 and control.value - null.value == pytest.approx(np.log10(4))


def test_unknown_labels_are_refused(unchecked):
    with pytest.raises(ValueError, match="labels is 'shuffled'"):
        ablations.contrast(made(0.5), "shuffled")  # type: ignore[arg-type]


def test_effects_beyond_another_direction_and_by_stability():
    found = made(0.5)
    assert ablations.beyond(found, "N0", True).value == pytest.approx(1, abs=1e-3)
    assert ablations.beyond(found, "N2", False).value == pytest.approx(np.log10(2), abs=1e-3)
    assert list(ablations.by_stability(found)) == [0.0, 0.25, 0.5, 1.0]
    assert ablations.ranks(found)["rate"].value == pytest.approx(1)
    rows = ablations.summary(found)
    assert rows["effect_sized"].value == pytest.approx(rows["effect_rated"].value), "all are of one size"
    assert rows["beyond_N2_stable"].value == pytest.approx(np.log10(2), abs=1e-3)
    shares = [float((one.stability >= 0.5).mean()) for model in found for one in model]
    assert rows["stable_share"].value == pytest.approx(np.mean(shares))
    assert {"effect_nats", "effect_null", "effect_control", "kl_at_0.25", "proxy_causal"} <= rows.keys()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    models = grokking.substrate("clean", [0, 1, 2], p=29, steps=20)
    acts = activations.collect(models, HOOK)
    studies = study.run({i: (one, converged(32, 4, 128)) for i, one in enumerate(acts)}, [100, 101, 102])
    yield models, list(studies.values())
    patch.undo()


def test_effects_are_those_of_the_interventions(trained):
    models, studies = trained
    where = ablations.sites(models, HOOK, studies, 160)
    found = ablations.effects(where, studies, tau=0.3)
    assert [len(model) for model in found] == [3, 3, 3]
    site = where[1]
    sae, one = studies[1].saes[2], found[1][2]
    z = sae.encode(site.x)[0]
    kept = ((z != 0).sum(0) >= ablations.LEAST) & studies[1].alive[2]
    assert len(one.rate) == int(kept.sum()) > 0
    latent = int(kept.nonzero()[0, 0])
    fires = z[:, latent] != 0
    for times, name in ((1, "own"), (2, "double")):
        changed = site.logits(site.x - times * z[:, latent, None] * sae.W_dec[0, latent]).double().log_softmax(-1)
        clean = site.clean.double().log_softmax(-1)
        kl = (clean.exp() * (clean - changed)).sum(1)[fires].mean()
        assert one.kl[name][0] == pytest.approx(float(kl), rel=1e-3, abs=1e-6)
    assert one.rate[0] == pytest.approx(float(fires.double().mean()))
    assert one.size[0] == pytest.approx(float(z[fires, latent].mean()), rel=1e-5)
    assert set(one.stability.tolist()) <= {0.0, 0.5, 1.0}
    rebuilt = site.logits(sae.decode(z[None])[0]).argmax(-1)
    spliced = interventions.faithfulness(site, studies[1].saes).accuracy[2]
    assert spliced == pytest.approx(float((rebuilt == site.answers).double().mean()))


def test_the_sources_groups_are_the_tenths_of_their_score():
    shared = torch.eye(8)[:2]
    noise = [torch.nn.functional.normalize(torch.randn(8, 8), dim=1) for _ in range(3)]
    rows = [torch.cat([shared, one]) for one in noise]
    found = ablations.groups(rows)
    assert found.stable.shape == found.unstable.shape == (3, 2)
    assert set(found.stable[:, 1]) <= {0, 1}, "what all seeds have is among the most stable"
    assert found.unstable[:, 1].min() >= 2


def test_the_proxy_does_not_ask_the_model_and_accuracy_is_measured_on_the_spliced_one(tmp_path_factory):
    models = grokking.substrate("leaked", [0, 1, 2], p=29, n_layers=2, steps=60).select(0)
    hook = "blocks.1.hook_resid_post"
    acts = activations.collect(models, hook)[0].whole()
    one = study.run({"x": (acts, replace(published(64, 8), batch_size=256))}, [100, 101, 102])["x"]
    found = ablations.as_published(models, hook, one, draws=20)
    turned = models._replace(parameters={k: v.clone() for k, v in models.parameters.items()})
    order = torch.randperm(turned.parameters["unembed.W_U"].shape[2])
    turned.parameters["unembed.W_U"][:] = turned.parameters["unembed.W_U"][:, :, order]
    other = ablations.as_published(turned, hook, one, draws=20)
    proxies = [name for name in found if name.startswith("proxy")]
    assert {name: found[name] for name in proxies} == {name: other[name] for name in proxies}
    assert found["accuracy"] > 0.9 > other["accuracy"], "the answers are other ones, the proxy is the same"
    assert found["kl_stable"] > 0 and 0 <= found["spliced"] <= 1
    assert found["left_stable"] < 0.1 < found["drop_stable"], "what the reconstruction loses is not the latent's"
