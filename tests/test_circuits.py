"""What features are of a Fourier circuit: planted circuits are found, nulls keep what they should."""

from dataclasses import replace

import pytest
import torch

from husai import activations, circuits, fourier, models, orbits, recipes, study
from husai.config import ModelConfig, TaskConfig

P, D = 13, 40
FREQUENCIES = [(1, 1), (2, 2), (3, 0), (0, 3)]


def site() -> circuits.Site:
    """Return an equivariant site: one plane a frequency, the first ones strongest, around a mean."""
    draw = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q[: 2 * len(FREQUENCIES)].reshape(-1, 2, D)
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    x = torch.randn(D, generator=draw).expand(P * P, D).clone()
    for strength, (f, g), (cosine, sine) in zip((3.0, 2.0, 2.0, 2.0), FREQUENCIES, frame, strict=True):
        angle = 2 * torch.pi * (f * a + g * b) / P
        x += strength * (angle.cos()[:, None] * cosine + angle.sin()[:, None] * sine)
    acts = activations.split(x, 0)
    return circuits.Site(acts, orbits.action(x, P, 0.999), torch.randn(D, P, generator=draw), torch.tensor([1, 2]))


def dictionary(place: circuits.Site, rows: torch.Tensor, rate: float = 0.3) -> circuits.Features:
    values = place.activations.values
    return circuits.measure(
        place, rows, fourier.fired((values - values.mean(0)) @ rows.T, torch.full((len(rows),), rate))
    )


def test_the_models_own_directions_are_found_and_isotropic_ones_are_not() -> None:
    place = site()
    own = dictionary(place, circuits.directions(place.planes, 12, 0))
    assert torch.allclose(own.alignment, torch.ones(12), atol=1e-4) and own.coverage == pytest.approx(1, abs=1e-4)
    assert own.frequency.abs().tolist() == place.planes.frequencies[torch.arange(12) % 4].tolist()
    drawn = {kind: circuits.drawn(place, own, kind, 0) for kind in circuits.DRAWN}
    assert drawn["N0"].alignment.mean() < drawn["N2"].alignment.mean() < 0.95
    assert drawn["N0"].latent.mean() < drawn["N2"].latent.mean() < own.latent.mean()
    assert torch.allclose(drawn["Fourier"].alignment, torch.ones(12), atol=1e-4)
    assert drawn["rotated"].alignment.mean() < 0.9
    for one in drawn.values():
        assert len(one.rows) == 12 and torch.allclose(one.rate, own.rate, atol=1.5 / P**2)
    with pytest.raises(ValueError, match="kind"):
        circuits.drawn(place, own, "N9", 0)


def test_families_and_keys_are_those_of_the_plane() -> None:
    place = site()
    known = {tuple(pair): k for k, pair in enumerate(place.planes.frequencies.tolist())}
    rows = place.planes.planes[[known[f] for f in FREQUENCIES], 0]
    found = dictionary(place, rows, 0.5)
    assert found.answer.tolist() == pytest.approx([1, 1, 0, 0], abs=1e-3)
    assert found.key[0] > 0.8 and found.key[2] < 0.1, "3 is no key frequency"
    assert found.spread.tolist() == pytest.approx([9 / 42, 4 / 42, 4 / 42, 4 / 42], abs=1e-3)


def test_features_that_fire_often_weigh_more_in_what_is_used() -> None:
    place = site()
    rows = torch.cat([circuits.directions(place.planes, 1, 0), torch.randn(1, D)])
    values = place.activations.values
    latents = fourier.fired((values - values.mean(0)) @ rows.T, torch.tensor([0.6, 0.1]))
    found = circuits.measure(place, rows, latents)
    wanted = (found.rate * found.alignment).sum() / found.rate.sum()
    assert found.used == pytest.approx(float(wanted)) and found.used > found.alignment.mean()


def test_measures_do_not_depend_on_the_order_or_length_of_rows() -> None:
    place = site()
    rows = torch.randn(9, D, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    before, after = dictionary(place, rows), dictionary(place, 3 * rows[order])
    for what in ("alignment", "latent", "logit", "answer", "key"):
        assert torch.allclose(getattr(before, what)[order], getattr(after, what), atol=1e-4)
    assert before.coverage == pytest.approx(after.coverage, abs=1e-5)


def test_means_and_gaps_have_a_value_a_seed() -> None:
    place = site()
    own = [[dictionary(place, circuits.directions(place.planes, 8, seed)) for seed in range(3)] for _ in range(3)]
    null = [[circuits.drawn(place, one, "N2", seed) for seed, one in enumerate(seeds)] for seeds in own]
    assert circuits.means(own, "alignment").shape == (3, 3)
    found = circuits.gaps({"SAE": own, "N2": null, "N4": null})
    assert found["alignment_N2"].low > 0 and found["alignment_N2"].n == 3
    assert "coverage_N2" in found and "coverage_N4" not in found
    every = circuits.summary({"topk": {"SAE": own, "N2": null}})
    assert every["topk_alignment_N2"] == found["alignment_N2"]
    difference = every["topk_latent_of_SAE"].value - every["topk_latent_of_N2"].value
    assert difference == pytest.approx(every["topk_latent_N2"].value)
    assert "in this model" in circuits.gaps({"SAE": own[:1], "N2": null[:1]})["alignment_N2"].method
    levels = circuits.exceeding(own, "alignment", [0.5, 1.1])
    assert [level.value for level in levels] == [1.0, 0.0]
    with pytest.raises(ValueError, match="what"):
        circuits.means(own, "beauty")


def test_embeddings_are_told_apart_by_the_right_r2_alone() -> None:
    noise = [torch.randn(113, 64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    found = circuits.embeddings({"random": noise, "perfect": [fourier.planted_table(113, 64, 5, i) for i in range(3)]})
    assert found["r2_perfect"].value == pytest.approx(1) and found["r2_gain_perfect"].low > 0.8
    assert found["published_r2_perfect_ten"].value == pytest.approx(0, abs=1e-5)
    assert "r2_gain_random" not in found
    with pytest.raises(ValueError, match="random"):
        circuits.embeddings({"perfect": noise})


@pytest.fixture(scope="module")
def small() -> models.Models:
    """Return three untrained models of two layers, with the answer in their input."""
    task, config = TaskConfig(P, "leaked", 0.9), ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32)
    parameters = models.initialise(config, P + 4, 7, [0, 1, 2])
    return models.Models(config, task, (0, 1, 2), parameters, (0, 0, 0))


def test_overlaps_are_those_of_the_activations_at_the_read_out(small: models.Models) -> None:
    hooks = ["blocks.1.hook_resid_post", "hook_embed"]
    found = circuits.overlaps(small, hooks, rows=P * P)
    assert list(found) == hooks
    acts = activations.collect(small, hooks[0])
    wanted = [fourier.published_overlap(one.values, P) for one in acts]
    assert found[hooks[0]] == pytest.approx(wanted, abs=1e-5)
    assert len(circuits.overlaps(small, hooks, rows=20)[hooks[1]]) == 3
    with pytest.raises(ValueError, match="hooks"):
        circuits.overlaps(small, ["blocks.9.hook_resid_post"])


def test_sites_have_the_models_unembedding(small: models.Models) -> None:
    acts = activations.collect(small, "blocks.1.hook_resid_post")
    places = circuits.sites(small, acts)
    assert [place.unembedding.shape for place in places] == [(16, P)] * 3
    assert torch.equal(places[1].unembedding, small.parameters["unembed.W_U"][1, :, :P])
    assert all(len(place.keys) == (P - 1) // 2 for place in places)
    other = circuits.elsewhere(places[0], acts[1])
    assert torch.equal(other.planes.planes, places[1].planes.planes) and other.unembedding is places[0].unembedding
    with pytest.raises(ValueError, match="acts"):
        circuits.sites(small, acts[:2])


def test_saes_of_a_planted_circuit_are_told_from_every_null() -> None:
    """The positive control: what is known to be there is found, and no null has it."""
    circuit = fourier.planted_circuit(P, 32, frequencies=2, phases=3, rate=0.25)
    acts = activations.split(circuit.activations, 0)
    config = recipes.converged(18, 5, 1024)
    done = study.run({"x": (acts, replace(config, lr=3e-3, batch_size=64))}, [0, 1, 2])["x"]
    overlaps = [fourier.published_overlap(rows, P) for rows in done.decoders]
    assert circuits.decoder_overlap([done], P).value == pytest.approx(sum(overlaps) / 3)
    place = circuits.Site(acts, orbits.action(acts.values, P, 0.95), torch.randn(32, P), torch.tensor([1]))
    panel = circuits.against([done], [place], {"again": ([done], [place])})
    found = circuits.gaps(panel)
    truth = fourier.spectrum(circuit.latents, P).purity.mean()
    assert circuits.means(panel["SAE"], "latent").mean() == pytest.approx(float(truth), abs=0.15)
    assert found["latent_N0"].low > 0 and found["latent_N2"].low > 0 and found["latent_rotated"].low > 0
    assert found["alignment_again"].value == 0
    shown = circuits.gallery(done, 0, place, 3)
    assert {name: len(panels) for name, panels in shown.items()} == {"SAE": 3, "N2": 3}
    titles = [int(title.split("%")[0]) for title, _ in shown["SAE"]]
    own = panel["SAE"][0][0]
    often = own.latent[own.rate.argsort(descending=True)[:12]]
    assert titles == sorted(titles, reverse=True) and titles[0] == round(100 * often.max().item())
    own, null = (panels[0][1] for panels in shown.values())
    assert own.shape == (P, P) and (own > 0).sum() == pytest.approx((null > 0).sum(), abs=2), "it fires as often"
