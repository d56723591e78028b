"""Probes: choices on training items alone, planted features found, the same slice for every code."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from husai.activations import Activations
from husai.benches import probing
from husai.config import SAEConfig
from husai.saes import SAEBatch
from husai.tasks import generator


def blobs(n: int, width: int, informative: dict[int, float], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise whose given columns are shifted for one class."""
    x = torch.randn(n, width, generator=generator(seed, "test/blobs"))
    y = torch.arange(n) % 2 == 0
    for column, shift in informative.items():
        x[:, column] += shift * y
    return x, y


def halves(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    n = len(y) // 2
    return x[:n], y[:n], x[n:], y[n:]


def task(x: torch.Tensor, y: torch.Tensor, name: str = "planted") -> probing.Task:
    return probing.Task(name, x, torch.arange(len(y)), y, torch.arange(len(y)) < len(y) // 2)


def tied(directions: torch.Tensor, k: int, seeds: int = 1) -> SAEBatch:
    rows = directions.expand(seeds, -1, -1).clone()
    zeros = torch.zeros(seeds, rows.shape[1]), torch.zeros(seeds, rows.shape[2])
    config = SAEConfig("topk", rows.shape[1], k)
    return SAEBatch(config, tuple(range(seeds)), rows.transpose(1, 2).contiguous(), zeros[0], rows, zeros[1])


def test_the_planted_columns_are_read_and_the_auc_is_that_of_two_normals():
    x, y = blobs(4000, 20, {3: 1.0, 7: 2.0})
    found = {probe.k: probe for probe in probing.probes(*halves(x, y), sizes=[1, 2, 5])}
    assert found[1].columns == (7,) and set(found[2].columns) == {3, 7}
    # AUC of a shift d is Phi(d / sqrt 2); two independent columns add up as sqrt(1 + 4)
    assert found[1].auc == pytest.approx(0.921, abs=0.02) and found[2].auc == pytest.approx(0.943, abs=0.02)


def test_the_auc_counts_pairs_in_the_right_order_and_ties_by_half():
    y = np.array([True, True, False, False, False])
    assert probing.auc(np.array([3.0, 1.0, 2.0, 1.0, 0.0]), y) == pytest.approx((3 + 1.5) / 6)
    assert (probing.auc(y.astype(float), y), probing.auc(-y.astype(float), y)) == (1, 0)


def test_the_scale_and_the_sign_of_a_column_change_nothing():
    x, y = blobs(400, 6, {1: -1.0, 2: 0.5})
    other = x * torch.tensor([1.0, -1000.0, 0.001, 1.0, 5.0, 1.0]) + 3
    for k in (1, 2, None):
        first, second = (probing.sparse_probe(*halves(z, y), k) for z in (x, other))
        assert first.auc == pytest.approx(second.auc, abs=1e-6) and first.columns == second.columns


def test_one_column_ranks_as_a_regression_on_it_does_whatever_the_penalty():
    for shift in (-0.3, 0.6):
        x, y = blobs(300, 4, {2: shift})
        train_x, train_y, test_x, test_y = halves(x.round(decimals=1), y)  # with ties
        (found,) = probing.probes(train_x, train_y, test_x, test_y, sizes=[1])
        column = list(found.columns)
        for penalty in probing.PENALTIES:
            fitted = LogisticRegression(C=penalty).fit(train_x[:, column].numpy(), train_y.numpy())
            assert found.auc == probing.auc(fitted.decision_function(test_x[:, column].numpy()), test_y.numpy())


def test_labels_that_mean_nothing_score_a_half():
    aucs = []
    for seed in range(12):
        x, y = blobs(400, 50, {}, seed)
        aucs.append(probing.sparse_probe(*halves(x, y), (1, 2, 5)).auc)
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.04), "choosing on test items would score above"


def test_no_choice_sees_the_test_items():
    x, y = blobs(400, 30, {4: 0.7, 5: 0.7})
    train_x, train_y, test_x, test_y = halves(x, y)
    first = probing.sparse_probe(train_x, train_y, test_x, test_y, (1, 2, 5))
    other = probing.sparse_probe(train_x, train_y, test_x.flip(0), ~test_y, (1, 2, 5))
    assert first[1:] == other[1:]


def test_a_constant_column_is_never_preferred_and_breaks_nothing():
    x, y = blobs(200, 3, {2: 2.0})
    x[:, 0] = 5.0
    assert probing.sparse_probe(*halves(x, y), 1).columns == (2,)
    assert probing.sparse_probe(*halves(torch.ones(200, 3), y), 1).auc == 0.5


def test_what_cannot_be_probed_is_refused(unchecked):
    x, y = blobs(40, 3, {})
    for k in (0, 4, []):
        with pytest.raises(ValueError, match="k is"):
            probing.sparse_probe(*halves(x, y), k)
    with pytest.raises(ValueError, match="smaller class"):
        probing.sparse_probe(x, torch.zeros(40, dtype=torch.bool), x, y, 1)
    with pytest.raises(ValueError, match="an item without rows"):
        probing.scores([task(x, y)._replace(owner=torch.zeros(40, dtype=torch.long))], tied(torch.eye(3), 1, 3))
    with pytest.raises(ValueError, match="NaN"):
        probing.scores([task(x.where(x > 0, torch.nan), y)], tied(torch.eye(3), 1, 3))


def test_an_item_is_the_mean_of_the_code_over_its_rows_not_the_code_of_the_mean():
    rows, owner = torch.tensor([[1.0], [-1.0], [3.0]]), torch.tensor([0, 0, 1])
    two = probing.Task("", rows, owner, torch.tensor([True, False]), torch.tensor([True, True]))
    assert two.pooled(torch.relu).tolist() == [[0.5], [3.0]]


def test_an_sae_with_the_features_beats_untrained_dictionaries_and_a_turned_basis_beats_neurons():
    turn = torch.linalg.qr(torch.randn(24, 24, generator=generator(0, "test/turn")))[0]
    codes, y = blobs(800, 24, {5: 3.0})
    x = codes @ turn  # the feature lies along no coordinate
    more, z = blobs(800, 24, {5: 3.0}, seed=1)
    found = probing.scores([task(x, y), task(more @ turn, z, "other")], tied(turn, 24, 3), sizes=(1, 2))
    assert found.by_k["sae"][0].min() > 0.93
    for code in ("random", "matched", "neurons"):
        assert (found.by_k["sae"][0] - found.by_k[code][0]).min() > 0.01, code
    assert found.chosen["dense"].shape == (2, 3) and found.delta("sae", "dense").max() < 0.05
    assert found.digests[0] != found.digests[1]
    assert np.ptp(found.by_k["neurons"], axis=2).max() == 0 < np.ptp(found.by_k["random"], axis=2).max()


def test_scores_of_another_slice_are_not_compared():
    x, y = blobs(80, 4, {1: 2.0})
    first, second = (probing.scores([task(z, y)], tied(torch.eye(4), 2, 3), (1, 2)) for z in (x, x + 1e-6))
    assert first.delta("sae", "pca", first).shape == (1, 3)
    with pytest.raises(ValueError, match="other is"):
        first.delta("sae", "pca", second)


def test_a_random_dictionary_has_the_shape_of_the_sae_and_the_covariance_of_the_data():
    rows = torch.randn(2000, 8, generator=generator(0, "test/rows")) * torch.tensor([10.0, *[1.0] * 7])
    sae = tied(torch.eye(8).repeat(64, 1), 3)
    made = probing.untrained(sae, rows)
    plain, matched = made["random"], made["matched"]
    assert plain.W_dec.shape == sae.W_dec.shape and bool(((plain.encode(rows) != 0).sum(-1) <= 3).all())
    assert plain.W_dec[0, :, 0].abs().mean() < 0.4 < 0.8 < matched.W_dec[0, :, 0].abs().mean()
    with pytest.raises(ValueError, match="directions"):
        probing.random_dictionary(sae, rows)


def corpus(documents: int = 240) -> tuple[Activations, torch.Tensor, list[str]]:
    """Return three tokens a document of four packages, one of them rare, with a column for each."""
    labels = [("ab", "cd", "ef", "rare")[3 if i % 30 == 29 else i % 3] for i in range(documents)]
    document = torch.arange(documents).repeat_interleave(3)
    x = torch.randn(len(document), 6, generator=generator(0, "test/corpus"))
    for row, i in enumerate(document.tolist()):
        x[row, ("ab", "cd", "ef", "rare").index(labels[i])] += 3
    return Activations(x, document % 5 != 0), document, labels


def test_text_tasks_are_all_pairs_of_common_packages_with_documents_of_their_own_to_test_on():
    acts, document, labels = corpus()
    found = probing.text_tasks(acts, document, labels)
    assert sorted(one.name for one in found) == ["ab | cd", "ab | ef", "cd | ef"]
    tested = []
    for one in found:
        assert len(one.labels) == len(one.training) == len(one.asked) and one.rows is found[0].rows
        for part in (one.training, ~one.training):
            assert int(one.labels[part].sum()) * 2 == int(part.sum()), "as many of either class"
        assert probing.sparse_probe(*one.parts(one.pooled(lambda rows: rows)), 1).auc > 0.95
        held = torch.isin(one.owner, one.asked[~one.training])
        tested.append({tuple(row) for row in one.rows[held].tolist()})
        fits = torch.isin(one.owner, one.asked[one.training])
        assert not tested[-1] & {tuple(row) for row in one.rows[fits].tolist()}
        assert int(held.sum()) == 3 * int((~one.training).sum())
    ab = [one.labels[~one.training] for one in found]
    shared = 3 * min(int(ab[0].sum()), int(ab[1].sum()))
    assert len(tested[0] & tested[1]) == shared, "a class is tested on the same documents in two pairs"
    few = probing.text_tasks(acts, document, labels, ["cd", "ab"], most=12, least=10)
    assert [one.name for one in few] == ["cd | ab"] and int(few[0].training.sum()) == 18


def test_text_tasks_refuse_what_they_cannot_split():
    acts, document, labels = corpus()
    with pytest.raises(ValueError, match="'rare'"):
        probing.text_tasks(acts, document, labels, ["ab", "rare"])
    with pytest.raises(ValueError, match="classes is"):
        probing.text_tasks(acts, document, ["one"] * len(labels))


def test_residue_tasks_balance_the_classes_and_keep_the_split_of_a_class_in_every_task():
    p = 7
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    acts = Activations(torch.nn.functional.one_hot((a + b) % p, p).float(), torch.ones(p * p, dtype=torch.bool))
    found = probing.residue_tasks(acts, (a + b) % p, [0, 3, 5])
    assert [one.name for one in found] == ["0", "3", "5"]
    for one in found:
        assert int(one.labels.sum()) * 2 == len(one.labels) == 14 and int((~one.training).sum()) == 4
        assert probing.sparse_probe(*one.parts(one.pooled(lambda rows: rows)), 1).auc == 1.0


def test_intervals_are_over_tasks_or_over_classes_and_over_seeds():
    draw = np.random.default_rng(0)
    names = [f"{a} | {b}" for a, b in (("x", "y"), ("z", "x"), ("y", "z"), ("w", "x"), ("w", "y"), ("z", "w"))]
    values = 0.1 + 0.01 * draw.normal(size=(6, 3))
    flat, pairs = probing.over_tasks(values), probing.over_classes(values, names)
    assert flat.value == pytest.approx(values.mean()) == pytest.approx(pairs.value)
    assert flat.n == 6 and pairs.n == 4 and "classes" in pairs.method
    assert probing.over_classes(values[:, 0], names).value == pytest.approx(values[:, 0].mean())
    with pytest.raises(ValueError, match="every pair"):
        probing.over_classes(values[:5], names[:5])
