"""What is pinned agrees by itself; the rest is scored alone, beside what it would be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import activations, health, metrics, pinning, study
from husai.metrics import mean_max_cosine, recovery
from husai.nulls import expected_max_cosine
from husai.recipes import converged
from husai.tasks import sparse_dictionary

TOY = sparse_dictionary(16, 24, 3, 2000, seed=0)
PLAIN = converged(24, 3, 200)


@pytest.fixture(scope="module")
def reference():
    return pinning.known(TOY.atoms, PLAIN.sae)


@pytest.fixture
def found(reference):
    data = activations.split(TOY.activations, 0)
    half = pinning.conditions("pinned", data, PLAIN, reference, "fixed", [0.5])
    found = study.run({"plain": (data, PLAIN)} | half, [1, 2, 3])
    return {"plain": found["plain"], "half": found["pinned_50"]}


def test_the_identity_holds_for_dictionaries_that_share_rows_and_are_random_else():
    """Few shared rows among many dimensions, so that they are nobody else's best match."""
    draw = torch.Generator().manual_seed(0)
    shared, a, b = (torch.randn(64, 128, generator=draw) for _ in range(3))
    floor = mean_max_cosine(torch.cat([a, torch.randn(64, 128, generator=draw)]), torch.randn(128, 128, generator=draw))
    whole = mean_max_cosine(torch.cat([shared, a]), torch.cat([shared, b]))
    assert whole == pytest.approx(pinning.identity(0.5, floor), abs=0.01)
    assert pinning.identity(0.0, 0.3) == 0.3 and pinning.identity(1.0, 0.3) == 1.0


def test_beyond_the_identity_is_zero_on_it_and_the_excess_above_it():
    plain = np.array([[1, 0.2, 0.3], [0.2, 1, 0.4], [0.3, 0.4, 1]])
    none = pinning.beyond(0.5 + 0.5 * plain, plain, 0.5)
    more = pinning.beyond(0.5 + 0.5 * plain + 0.1, plain, 0.5)
    assert none.value == pytest.approx(0) and none.high == pytest.approx(0)
    assert more.value == pytest.approx(0.1) and more.low == pytest.approx(0.1)


def test_times_is_a_ratio_of_means_paired_by_seed():
    alike = pinning.times([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert alike.value == alike.low == alike.high == pytest.approx(2.0)
    assert pinning.times([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]).value == pytest.approx(2.5)


def test_the_rest_leaves_out_what_is_pinned_and_the_counterpart_what_is_like_it(found, reference):
    rows = reference.W_dec[0, :12]
    others, alike = pinning.others(found["half"], 12), pinning.counterparts(found["plain"], rows.expand(3, -1, -1))
    assert not others[:, :12].any() and int(alike.sum(1).max()) <= 12
    for kept, decoder in zip(alike, found["plain"].saes.W_dec, strict=True):
        assert recovery(decoder[kept], TOY.atoms[12:]) > recovery(decoder[kept], TOY.atoms[:12])
    row = pinning.rest(found["half"], found["plain"])
    assert row["score"].value < found["half"].scores("mean_max_cosine")[0, 1]
    assert row["gain"].value == pytest.approx(row["score"].value - row["counterpart"].value)
    assert row["N0"].value == pytest.approx(expected_max_cosine(16, round(row["count"])), abs=0.05)


def test_what_is_pinned_is_not_asked_whether_it_learned(found):
    """Pinned rows are those of the start and agree: with them half of a trained SAE looks as if it never had begun."""
    half = found["half"]
    pinned, learned = (half.alive & (torch.arange(24) < 12)), pinning.others(half, 12)
    start, then, now = (half.at(step).decoders(learned) for step in (0, 100, 200))
    one = half.convergence
    assert metrics.init_cosine(half.decoders[0][: int(pinned[0].sum())], half.at(0).decoders(pinned)[0]) > 0.999
    assert one == health.convergence(one.updates, start, then, now)
    whole = health.convergence(one.updates, *(half.at(step).decoders(half.alive) for step in (0, 100, 200)))
    assert whole.init_cosine > one.init_cosine and abs(whole.slope) < abs(one.slope)
    everything = pinning.conditions("all", half.activations, PLAIN, half.saes[0], "fixed", [1.0])
    assert study.run(everything, [1, 2, 3])["all_100"].convergence.init_cosine == pytest.approx(1, abs=1e-5)


def test_a_half_pinned_study_that_converged_passes_the_gate(reference):
    data = activations.split(TOY.activations, 0)
    long = replace(PLAIN, steps=4096, batch_size=256, lr=1e-2)
    kept = study.run(pinning.conditions("long", data, long, reference, "fixed", [0.5]), [1, 2, 3])["long_50"]
    assert kept.convergence.converged, kept.convergence
    whole = metrics.init_cosine(kept.decoders[0], kept.at(0).decoders(kept.alive)[0])
    assert whole > 0.5, "with the pinned half it would have failed"


def test_the_reference_is_scored_with_others_than_itself(found, reference):
    scores = [mean_max_cosine(rows, reference.W_dec[0]) for rows in found["half"].saes.W_dec]
    assert pinning.to_reference(found["half"], reference).value == pytest.approx(np.mean(scores))
    longer = study.run({"plain": (found["plain"].activations, PLAIN)}, [9, 1, 2, 3])["plain"]
    one = pinning.to_reference(longer, longer.saes[0])
    assert one.n == 3 and one.value == pytest.approx(longer.scores("mean_max_cosine", "all")[0, 1:].mean())


def test_nothing_pinned_gains_nothing(found):
    row = pinning.rest(found["plain"], found["plain"])
    assert row["gain"].value == 0 and row["score"] == row["counterpart"]
    whole = pinning.measured(found["plain"], found["plain"])
    assert whole["share"] == 0 and whole["beyond"].value == 0 and whole["times_fvu"].value == 1
    assert whole["identity"] == pytest.approx(whole["whole"].value)


def test_half_pinned_is_measured_against_the_same_seeds_of_a_longer_list(found):
    longer = study.run({"plain": (found["plain"].activations, PLAIN)}, [9, 1, 2, 3])["plain"]
    row, more = (pinning.measured(found["half"], plain) for plain in (found["plain"], longer))
    assert row["share"] == 0.5 and more["whole"] == row["whole"]
    assert more["beyond"].value == pytest.approx(row["beyond"].value, abs=1e-6)
    assert row["beyond"].value == pytest.approx(row["whole"].value - row["identity"])
    with pytest.raises(ValueError, match="study: seeds is"):
        pinning.measured(longer, found["plain"])


def test_pinned_truth_is_rebuilt_by_its_own_latents(reference):
    z = reference.encode(TOY.activations)[0]
    truth = (TOY.codes > 0).float()
    fires = (z > 0).float()
    assert float((fires * truth).sum() / truth.sum()) > 0.6  # of three atoms at once, that overlap
    single = reference.encode(TOY.atoms)[0]
    assert torch.equal(single.argmax(1), torch.arange(24))


def test_what_is_pinned_counts_for_nothing_in_the_recovery_of_the_rest(found):
    row = pinning.recovered(found["half"], found["plain"], TOY.atoms)
    assert row["gain"].value == pytest.approx(row["score"].value - row["counterpart"].value)
    kept = found["plain"].saes.decoders(pinning.counterparts(found["plain"], found["half"].saes.W_dec[:, :12]))
    assert row["counterpart"].value == pytest.approx(np.mean([recovery(rows, TOY.atoms[12:]) for rows in kept]))
    assert pinning.recovered(found["half"], found["plain"], TOY.atoms.flip(0))["score"].value < row["score"].value


def test_bad_input_is_refused_by_name(found, reference):
    with pytest.raises(ValueError, match="pinned is 'every latent'"):
        pinning.others(found["half"], 24)
    with pytest.raises(ValueError, match="share is 1.5"):
        pinning.identity(1.5, 0.3)
    with pytest.raises(ValueError, match="theirs is '2 seeds'"):
        pinning.times([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="0 or less"):
        pinning.times([1.0, 2.0, 3.0], [1.0, 0.0, 2.0])
