"""The report finds what was planted, says what it lacks and why, and is the same whenever it is asked."""

import json

import numpy as np
import pytest
import torch
from report_planted import SHARED, activations, as_dictionary_learning, as_sparsify, folder, one
from scipy.stats import t as student

from husai import formats, metrics, nulls, replication, report, stats
from husai.artifacts import write_tensors
from husai.evidence import write_json
from husai.report import activity, advice, features, scores
from husai.report.activity import Activity, measure, read_activations
from husai.report.blocks import Drawn, Tiles
from husai.report.inputs import open_inputs
from husai.report.scores import DEAD
from husai.saes import SAEBatch


def score(found, name, latents="all", threshold=None):
    rows = found["scores"]
    return next(r for r in rows if (r["name"], r["latents"], r["threshold"]) == (name, latents, threshold))


@pytest.fixture
def three(tmp_path):
    second, third = as_sparsify(one(1, n=56), tmp_path / "sae_1"), as_dictionary_learning(one(2), tmp_path / "sae_2")
    return [folder(tmp_path, 0), second, third]


def test_planted_features_come_out_as_matched_and_the_others_do_not(tmp_path, three):
    found = report.evaluate(three)
    report.validate(found)
    for i, row in enumerate(found["matched"]):
        assert row["in_all"] == SHARED and row["in_some"] == 0 and row["in_none"] == (40, 56, 40)[i] - SHARED
    shared = score(found, "shared", threshold=0.7)
    assert shared["matrix"][0][1:] == pytest.approx([SHARED / 56, SHARED / 40], abs=1e-6)
    assert shared["N0"]["value"]["value"] < 0.01 and shared["N0"]["gap"]["value"] > 0.4
    table = found["features"]
    best = np.array(table["best_cosine"])
    assert best[np.array(table["matched"]) == 2].min() > 0.9 > best[np.array(table["matched"]) == 0].max()


def test_scores_are_those_of_the_house_metrics(three):
    found = report.evaluate(three)
    decoders = [formats.read(path).W_dec[0] for path in three]
    wanted = {
        ("mean_max_cosine", None): metrics.pairwise_matrix(metrics.mean_max_cosine, decoders),
        ("hungarian_mcc", None): metrics.pairwise_matrix(metrics.hungarian_mcc, decoders),
    }
    for (name, threshold), matrix in wanted.items():
        row, estimate = score(found, name, threshold=threshold), stats.pairwise(matrix)
        came = [row["estimate"][key] for key in ("value", "low", "high", "n")]
        assert came == pytest.approx([estimate.value, estimate.low, estimate.high, 3], abs=1e-5)
        assert row["matrix"][1][0] == pytest.approx(matrix[1, 0], abs=1e-6) and row["matrix"][1][1] is None
    closed = [nulls.expected_max_cosine(24, 40, n_other=n) for n in (56, 40, 56)]
    assert score(found, "mean_max_cosine")["N0"]["value"]["value"] == pytest.approx(np.mean(closed), abs=1e-6)


def test_weighted_and_alive_scores_are_those_of_the_house_metrics(tmp_path, three):
    path = activations(tmp_path)
    found = report.evaluate(three, path)
    report.validate(found)
    x = read_activations(path, 24, 8192).x
    read = [formats.read(path) for path in three]
    firing = [sae.firing(x)[0] for sae in read]
    rows = [sae.W_dec[0][rate > DEAD] for sae, rate in zip(read, firing, strict=True)]
    rates = [rate[rate > DEAD].float() for rate in firing]
    assert any(bool((rate <= DEAD).any()) for rate in firing), "the case must have dead latents"
    for name, stacks in (
        ("mean_max_cosine", [rows]), ("hungarian_mcc", [rows]), ("frequency_weighted_max_cosine", [rows, rates]),
        ("frequency_weighted_hungarian", [rows, rates]),
    ):  # fmt: skip
        wanted = stats.pairwise(metrics.pairwise_matrix(getattr(metrics, name), *stacks)).value
        assert score(found, name, "alive")["estimate"]["value"] == pytest.approx(wanted, abs=1e-5), name
    for sae, row, rate in zip(read, found["quality"], firing, strict=True):
        wanted = sae.quality(x, x.mean(0))[0]
        assert row["l0"] == pytest.approx(wanted["l0"], abs=1e-5)
        assert row["fvu"] == pytest.approx(wanted["fvu"], rel=1e-4)
        assert row["alive"] == pytest.approx(float((rate > DEAD).double().mean()), abs=1e-6)


def test_covariates_are_those_of_notebook_25(tmp_path, three):
    sample = read_activations(activations(tmp_path), 24, 8192)
    for found in open_inputs(three):
        what = measure(found, sample.x, DEAD)
        wanted = replication.covariates(found.sae(), sample.x, what.firing > DEAD)
        np.testing.assert_allclose(what.covariates[:, :4], wanted[:, :4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_a_time", [64, 10**6])
@pytest.mark.parametrize("sparse", [1, 10**9])
def test_a_measure_is_the_same_however_it_is_computed(tmp_path, three, monkeypatch, sparse, at_a_time):
    x, found = read_activations(activations(tmp_path), 24, 8192).x[:300], open_inputs(three)[1]
    wanted = measure(found, x, DEAD)
    monkeypatch.setattr(activity, "SPARSE", sparse)
    monkeypatch.setattr(activity, "BLOCK", at_a_time * found.d_sae)
    came = measure(found, x, DEAD)
    assert came.quality == pytest.approx(wanted.quality, abs=1e-6) and torch.equal(came.firing, wanted.firing)
    np.testing.assert_allclose(came.covariates, wanted.covariates, atol=1e-6)
    error = (x - found.sae().reconstruct(x)[0]).double().square().sum() / (x - x.mean(0)).double().square().sum()
    assert came.quality["fvu"] == pytest.approx(float(error), abs=1e-5)


def test_without_activations_the_report_says_what_needs_them(three):
    found = report.evaluate(three)
    none = {"value": None, "reason": "needs activations"}
    assert found["quality"] == found["replication"] == found["activations"] == found["recommendation"] == none
    assert score(found, "hungarian_mcc", "alive")["estimate"] == none
    assert score(found, "hungarian_mcc")["N2"] == none and found["features"]["firing_rate"] == none
    assert found["effective_rank"]["activations"] == none


def test_two_saes_have_no_interval_and_no_predictor(tmp_path, three):
    found = report.evaluate(three[:2], activations(tmp_path))
    report.validate(found)
    estimate = score(found, "hungarian_mcc")["estimate"]
    assert estimate["low"] is None and "fewer than 3" in estimate["method"]
    assert found["replication"]["value"] is None and "3 SAEs" in found["replication"]["reason"]
    given = replication.Predictor(("firing_rate",), (0.0,), (1.0,), (1.0,), 0.0)
    told = report.evaluate(three[:2], activations(tmp_path), predictor=given)
    assert told["replication"]["source"] == "given"
    column = told["features"]["replication_probability"]
    assert [p is None for p in column] == told["features"]["dead"]


def test_the_predictor_of_an_sae_never_saw_it():
    """Whatever its matches are, the weights by which its latents are judged stay; those of the others do not."""
    draw, n = np.random.default_rng(0), 80
    sides = [Tiles(Drawn(n, 8, i)) for i in range(4)]
    active = [Activity(torch.ones(n), {}, torch.ones(n), draw.normal(size=(n, 5))) for _ in sides]
    near = [torch.rand(n) for _ in sides]
    matches = [torch.rand(4, n) < 0.6 for _ in sides]
    first, column = features.replication(active, near, matches, sides, None)
    assert len(column) == 4 * n and "notebook 25" in first["caveat"] and first["auroc"]["n"] == 4
    changed = [found.clone() for found in matches]
    changed[0] = ~changed[0]
    for found in changed[1:]:
        found[0] = ~found[0]
    second, _ = features.replication(active, near, changed, sides, None)
    assert first["weights"][0] == second["weights"][0] and first["weights"][1] != second["weights"][1]


def test_features_that_show_that_they_replicate_are_found_out(tmp_path, three):
    """The shared features fire, the others hardly do: ranked by a predictor fitted to the other SAEs."""
    found = report.evaluate([*three, folder(tmp_path, 5)], activations(tmp_path))
    report.validate(found)
    assert found["replication"]["source"] == "leave one SAE out" and len(found["replication"]["weights"]) == 4
    assert found["replication"]["auroc"]["value"] > 0.8
    table = found["features"]
    told = [(p, m) for p, m in zip(table["replication_probability"], table["matched"], strict=True) if p is not None]
    shared, other = ([p for p, m in told if (m == 3) == is_shared] for is_shared in (True, False))
    assert np.mean(shared) > np.mean(other) + 0.2
    assert [p is None for p in table["replication_probability"]] == table["dead"]


def test_the_same_folders_give_the_same_bytes(tmp_path, three):
    path = activations(tmp_path)
    texts = []
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, report.evaluate(three, path))
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1] and str(tmp_path).encode() not in texts[0]


def permuted(sae, seed):
    order = torch.randperm(sae.config.d_sae, generator=torch.Generator().manual_seed(seed))
    return order, SAEBatch(
        sae.config, sae.seeds, sae.W_enc[:, :, order], sae.b_enc[:, order], sae.W_dec[:, order], sae.b_dec
    )


def values(found):
    """Every number of the report over pairs."""
    rows = [[row["estimate"], *(row[null].get(key) for null in ("N0", "N2") for key in ("value", "gap", "kappa"))]
            for row in found["scores"]]  # fmt: skip
    kept = [one["value"] for row in rows for one in row if isinstance(one, dict)]
    return kept + [row["estimate"]["value"] for row in found["subspaces"]]


def test_the_order_of_latents_changes_no_score(tmp_path, three):
    path = activations(tmp_path)
    turned = []
    for i, folder_ in enumerate(three):
        order, sae = permuted(formats.read(folder_), i)
        turned.append(as_sparsify(sae, tmp_path / f"turned_{i}"))
    plain = [as_sparsify(formats.read(folder_), tmp_path / f"plain_{i}") for i, folder_ in enumerate(three)]
    first, second = report.evaluate(plain, path), report.evaluate(turned, path)
    matched = [np.array(found["features"]["matched"])[-40:] for found in (first, second)]
    assert (matched[0][order.numpy()] == matched[1]).all()
    came = [[row["estimate"].get("value") for row in found["scores"]] for found in (first, second)]
    assert came[0] == pytest.approx(came[1], abs=2e-6)


def test_the_order_of_folders_changes_no_value(tmp_path, three):
    path = activations(tmp_path)
    first, second = report.evaluate(three, path), report.evaluate(three[::-1], path)
    assert values(first) == pytest.approx(values(second), abs=2e-6)
    assert first["matched"][0]["in_all"] == second["matched"][2]["in_all"]
    assert first["quality"][0]["fvu"] == second["quality"][2]["fvu"]
    row = [score(found, "hungarian_mcc")["matrix"] for found in (first, second)]
    assert row[0][0][1] == pytest.approx(row[1][2][1], abs=2e-6)


def test_ranks_and_subspaces_are_those_of_the_house(tmp_path, three):
    found = report.evaluate(three)
    decoders = [torch.nn.functional.normalize(formats.read(path).W_dec[0], dim=1) for path in three]
    for kind, came in found["effective_rank"]["decoders"][1].items():
        assert came == pytest.approx(metrics.effective_rank(decoders[1], kind), rel=1e-4)
    for row in found["subspaces"]:
        wanted = metrics.subspace_overlap(decoders[0], decoders[1], row["rank"])
        assert row["matrix"][0][1] == pytest.approx(wanted, abs=1e-4)
        assert row["N0"]["value"]["value"] == pytest.approx(row["rank"] / 24, abs=1e-6)
    x = read_activations(activations(tmp_path), 24, 8192).x
    root, ranks = advice.of_activations(x)
    torch.testing.assert_close(root, nulls.covariance_root(x))
    for kind, came in ranks.items():
        assert came == pytest.approx(metrics.effective_rank(x, kind), rel=1e-6)


def test_n2_is_above_n0_where_the_data_fill_few_directions(tmp_path):
    x = torch.randn(1000, 24, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0] * 4 + [0.05] * 20)
    write_tensors(tmp_path / "acts.safetensors", {"x": x})
    found = report.evaluate([folder(tmp_path, i) for i in range(2)], tmp_path / "acts.safetensors")
    row = score(found, "mean_max_cosine")
    assert row["N2"]["value"]["value"] > row["N0"]["value"]["value"] + 0.2


def test_the_null_of_rounded_sizes_is_that_of_the_sizes():
    at = [scores.Chance(16)(n, m) for n, m in ((2048, 1500), (2047, 1504))]
    for key in at[0]:
        assert at[0][key] == pytest.approx(at[1][key], abs=3e-3), key
    assert scores._rounded(1000) == 1000 and abs(scores._rounded(12_345) / 12_345 - 1) < 1 / 32


@pytest.mark.parametrize("known", [False, True])
def test_nulls_of_kept_rows_are_those_that_are_drawn_alone(known):
    root = torch.diag(torch.linspace(0.1, 2, 12).double())
    together, alone = (scores.Chance(12, root) for _ in range(2))
    if known:
        together(300, 200)
    together.draw((200, 300), (150, 280))
    assert together(200, 300) == alone(300, 200) and together(280, 150) == alone(150, 280)


def test_saes_needed_grow_as_the_width_shrinks_and_the_gap_falls():
    needed = [scores.half_width(0.05, 0.25, target) for target in (0.1, 0.02, 0.01)]
    assert 3 <= needed[0] < needed[1] < needed[2]
    variance = 0.05**2 * (4 * 0.25 / needed[1] + 2 * 0.5 / (needed[1] * (needed[1] - 1)))
    assert student.ppf(0.975, needed[1] - 1) * variance**0.5 <= 0.02


def test_a_report_says_how_many_saes_it_takes(three):
    rows = report.evaluate(three)["seeds_needed"]
    needed = {(r["purpose"], r["score"], r["threshold"]): r["seeds"] for r in rows}
    assert needed["score over N0", "hungarian_mcc", None] >= 3
    assert needed["score over N2", "hungarian_mcc", None] == {"value": None, "reason": "needs activations"}
    two = report.evaluate(three[:2])["seeds_needed"]
    assert all(isinstance(row["seeds"], dict) for row in two)


def test_a_width_and_a_k_are_recommended_on_request(tmp_path, three, monkeypatch):
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path / "store"))
    found = report.evaluate(three, activations(tmp_path), recommend=True, width=8, steps=4)
    report.validate(found)
    advised, rank = found["recommendation"], found["effective_rank"]["activations"]["singular_entropy"]
    assert advised["width"] == 2 ** round(np.log2(rank)) and advised["k_at_width"] == 8
    assert advised["k"] in [row["k"] for row in advised["curve"]] and advised["trained"] == 2 * len(advised["curve"])
    assert advised["k"] == min(advised["curve"], key=lambda row: row["description_length"])["k"]


def test_duplicates_are_a_warning(tmp_path, three):
    found = report.evaluate([three[0], three[0], three[1]])
    assert found["duplicates"] == [[0, 1]] and any("same weights" in line for line in found["warnings"])
    assert score(found, "hungarian_mcc")["matrix"][0][1] == pytest.approx(1.0, abs=1e-6)


def test_a_report_survives_json(tmp_path, three):
    found = report.evaluate(three)
    assert json.loads(json.dumps(found)) == found


def test_an_sae_without_a_living_latent_is_reported_as_such(tmp_path):
    dead = one(0)
    dead.b_enc.fill_(-1e3)
    paths = [as_sparsify(dead, tmp_path / "dead"), folder(tmp_path, 1), folder(tmp_path, 2)]
    found = report.evaluate(paths, activations(tmp_path))
    report.validate(found)
    assert found["quality"][0]["alive"] == 0
    assert score(found, "hungarian_mcc", "alive")["estimate"]["reason"] == "an SAE has no latent alive"
