"""Stress tests: selection among cells, transcoders as studies, parts that SAEs never saw, half precision, binding."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from husai import activations, artifacts, stats, stress, study, training
from husai.activations import Activations
from husai.config import ModelConfig, SAEConfig, TaskConfig, TrainConfig
from husai.language import collect, pretrained, site
from husai.models import Models, initialise
from husai.stress import binding, precision, shifts, sweeps, transcoders
from husai.study import Study
from husai.tasks import generator, sequences, sparse_dictionary
from husai.text import corpus

SMALL = TrainConfig(SAEConfig(d_sae=12, k=2), steps=32, batch_size=32)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
        yield


@pytest.fixture(scope="module")
def acts() -> Activations:
    return activations.split(sparse_dictionary(8, 12, 2, 600, 0).activations, 0, "known")


@pytest.fixture(scope="module")
def base(acts: Activations) -> Study:
    return study.run({"": (acts, SMALL)}, [0, 1, 2])[""]


# the best of many cells


@pytest.mark.parametrize("cells", [1, 16])
def test_the_best_of_many_cells_passes_as_often_as_counting_orders_says(cells: int) -> None:
    found = sweeps.passes_by_chance(cells, draws=4000)
    assert found["bound"].low <= 1 - 0.95**cells <= found["bound"].high
    assert found["difference"].value == pytest.approx(1 - 0.5**cells, abs=0.03)
    assert found["holm"].value < 0.05


def test_seed_effects_make_chance_passes_more_frequent_and_the_correction_holds() -> None:
    free, shared = (sweeps.passes_by_chance(16, rho, draws=2000) for rho in (0.0, 0.4))
    assert shared["bound"].low > free["bound"].high
    assert shared["holm"].value < 0.05
    assert sweeps.passes_by_chance(4, draws=50) == sweeps.passes_by_chance(4, draws=50)
    with pytest.raises(ValueError, match="rho"):
        sweeps.passes_by_chance(4, 0.7)


def test_the_published_bound_is_the_least_of_one_less_the_most_of_the_other() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.triu(m, 1) + np.triu(m, 1).T for m in rng.random((2, 4, 4)))
    pairs = [m[:3, :3][np.triu_indices(3, 1)] for m in (first, second)]
    assert sweeps.published_bound(first, second) == pytest.approx(pairs[0].min() - pairs[1].max())


# transcoders


@pytest.fixture(scope="module")
def mapped(acts: Activations) -> Activations:
    """Targets of another width: a linear map of the inputs."""
    turn = torch.randn(8, 6, generator=generator(0, "test"))
    return acts._replace(values=acts.values @ turn, name="mapped")


def test_a_transcoder_study_is_judged_on_its_targets(acts: Activations, mapped: Activations) -> None:
    made = transcoders.run(acts, mapped, replace(SMALL, steps=512, lr=1e-2), [0, 1, 2])
    direct = training.train(acts.fit, made.config, [0, 1, 2], targets=mapped.fit).saes
    assert torch.equal(made.saes.W_dec, direct.W_dec) and made.saes.config.transcoder
    x, y = acts.held_out, mapped.held_out
    left = (y - direct.reconstruct(x)[1]).square().sum() / (y - mapped.mean).square().sum()
    assert made.by_seed["fvu"][1] == pytest.approx(float(left), rel=1e-4) and float(left) < 0.8
    assert torch.equal(made.firing, direct.firing(x))
    assert made.scores("mean_max_cosine").shape == (3, 3)
    assert [tuple(z.shape) for z in made.codes(made.alive)] == [(len(x), n) for n in made.alive.sum(1).tolist()]


def test_a_transcoder_needs_the_split_of_its_inputs(acts: Activations, mapped: Activations) -> None:
    with pytest.raises(ValueError, match="split"):
        transcoders.run(acts, mapped.whole(), SMALL, [0, 1, 2])
    with pytest.raises(ValueError, match="at least 3 seeds"):
        transcoders.run(acts, mapped, SMALL, [0, 1])


def test_a_cell_of_fewer_epochs_is_the_run_of_fewer_epochs(acts: Activations, mapped: Activations) -> None:
    whole = [part.whole() for part in (acts, mapped)]
    both = transcoders.sweep(*whole, [12], [2], [1e-3], [2, 4], [0, 1, 2], batch=64)
    alone = transcoders.sweep(*whole, [12], [2], [1e-3], [2], [0, 1, 2], batch=64)
    assert list(both) == ["12/2/2/0.001", "12/2/4/0.001"]
    for kind in ("transcoder", "sae"):
        short, again = (getattr(found["12/2/2/0.001"], kind).saes for found in (both, alone))
        assert torch.equal(short.W_dec, again.W_dec)
    assert both["12/2/2/0.001"].delta == alone["12/2/2/0.001"].delta
    summary = transcoders.summary(both)
    assert summary["cells"] == 2 and summary["best_delta"].value == max(cell.delta.value for cell in both.values())
    raw = [stats.p_value(cell.beyond) for cell in both.values()]
    assert all(a >= b for a, b in zip(transcoders.corrected(both).values(), raw, strict=True))


def test_in_one_space_both_have_one_k_and_one_width(acts: Activations, mapped: Activations) -> None:
    made, plain = transcoders.in_one_space([(acts, mapped)], SMALL, [0, 1, 2])
    assert made[0].saes.W_dec.shape == plain[0].saes.W_dec.shape == (3, 12, 6)
    assert torch.equal(made[0].activations.mean, plain[0].activations.mean)


# parts that SAEs never saw


def test_no_row_of_a_part_outside_is_inside(acts: Activations) -> None:
    outside = {"a": torch.arange(600) < 50, "b": torch.arange(600) >= 500}
    found = shifts.apart(acts, torch.arange(600) % 2 == 0, outside, dropped=torch.arange(600) == 77)
    assert len(found.inside.values) == len(found.labels) == 449
    assert torch.equal(found.outside["b"].values, acts.values[500:])
    rows = {tuple(row) for row in found.inside.values.tolist()}
    assert rows.isdisjoint(map(tuple, found.outside["a"].values.tolist()))
    with pytest.raises(ValueError, match="at least one row"):
        shifts.apart(acts, torch.ones(600, dtype=torch.bool), {"a": torch.zeros(600, dtype=torch.bool)})


def test_the_same_distribution_costs_little_and_another_much(acts: Activations) -> None:
    x = torch.cat([acts.values, sparse_dictionary(8, 12, 2, 200, 9).activations])
    whole = activations.split(x, 0)
    other, same = torch.arange(800) >= 600, torch.arange(800) < 150
    made = shifts.apart(whole, x[:, 0] > 0, {"other": other, "same": same})
    config = replace(SMALL, steps=512)
    trained = study.run({"": (made.inside, config)}, [0, 1, 2])[""]
    found = shifts.judge([trained], [made])
    assert found["other"]["fvu_drop"].low > 0.05 > abs(found["same"]["fvu_drop"].value)
    assert found["same"]["auc_inside"].value > 0.8
    assert found["same"]["fvu_drop"].value == pytest.approx(
        found["same"]["fvu_outside"].value - found["same"]["fvu_inside"].value
    )
    x = made.inside.held_out
    assert shifts.fvu(trained, x) == pytest.approx(trained.by_seed["fvu"])
    near = x.mean(0) + 0.01 * (x - x.mean(0))  # varies little among itself, and is not dearer for it
    assert max(shifts.fvu(trained, near)) < 0.5
    axes = shifts.pca_fvu(trained, x)
    inside = found["other"]["excess_inside"].value
    assert 0 < axes < 1 and inside == pytest.approx(np.mean(trained.by_seed["fvu"]) - axes)
    assert shifts.less(trained, made, "same", than="other").low > 0
    assert shifts.less(trained, made, "same", than="same").value == 0


def test_held_out_residues_are_never_answers_inside() -> None:
    config, task = ModelConfig(d_model=8, n_heads=2, d_mlp=8, steps=0), TaskConfig(11)
    data = sequences(task)
    model = Models(config, task, (0,), initialise(config, data.vocabulary, data.tokens.shape[1], [0]), (0,))
    coded = activations.split(torch.nn.functional.one_hot(data.answers, 11).float(), 0)
    found = shifts.residues(coded, model, share=0.3)
    kinds = {name: {*part.values.argmax(1).tolist()} for name, part in found.outside.items()}
    inside = {*found.inside.values.argmax(1).tolist()}
    assert len(kinds["residues"]) == 3 and kinds["residues"].isdisjoint(inside) and kinds["inputs"] <= inside
    with pytest.raises(ValueError, match="share"):
        shifts.residues(coded, model, share=1.0)


def test_text_is_split_by_where_it_is_from() -> None:
    model = pretrained.load()
    texts = [f"{word} functions return arrays of numbers, {i}" for i, word in enumerate("a b c d e f g h".split())]
    labels = ["numpy"] * 4 + ["torch"] * 2 + ["topics"] * 2
    corpora = corpus.of("small", texts, labels)
    place = site.Site(model, corpora, "hook_embed", collect.collect(model, corpora, "hook_embed", 40, 16, repeats=True))
    found = shifts.corpora(place, context=16)
    where = torch.tensor([labels[i] == "torch" for i in place.text.document.tolist()])
    assert torch.equal(found.outside["alphabet"].values, place.text.acts.values[where])
    topics = model.tokenize(texts[6:], 16)
    assert len(found.outside["topics"].values) == len(model.at(topics, "hook_embed")[topics.kept].unique(dim=0))
    numpy_rows = sum(labels[i] == "numpy" for i in place.text.document.tolist())
    assert len(found.inside.values) == numpy_rows
    with pytest.raises(ValueError, match="packages"):
        shifts.corpora(place, last=2)
    told = shifts.texts(place, ["unbelievableness"], context=16)
    assert told.outside["texts"].labels.tolist()[0] is False and bool(told.outside["texts"].labels.any())


# half precision


def test_rounding_changes_values_by_its_own_precision_only(acts: Activations) -> None:
    for kind, step in (("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        changed = (precision.rounded(acts, kind).values / acts.values - 1).abs()
        assert 0 < float(changed[acts.values.abs() > 1e-3].max()) <= step
    with pytest.raises(ValueError, match="kind"):
        precision.rounded(acts, "int8")
    with pytest.raises(ValueError, match="float16"):
        precision.rounded(acts._replace(values=acts.values * 1e6), "float16")


def test_small_causes_are_told_apart(base: Study) -> None:
    found = precision.causes(base)
    assert found["other_seed"] == stats.pairwise(base.scores("mean_max_cosine"))
    assert found["float16"].value > found["other_order"].value > found["other_start"].value
    assert precision.same_seed(base, base).value == pytest.approx(1)
    assert abs(precision.loss(base, "float16").value) < abs(precision.loss(base, "bfloat16").value) + 1e-3 < 0.1


# binding


def test_evidence_names_the_saes_and_notices_others(acts: Activations, base: Study, tmp_path: Path) -> None:
    value = stats.mean([0.1, 0.2, 0.3])
    found = stress.evidence(base, "random_model", value, note="x")
    assert found["candidate"] == binding.candidate(base) == f"saes/{base.folder.name}"
    assert found["estimate"]["value"] == pytest.approx(0.2) and found["note"] == "x"
    assert found["digest"] == artifacts.verify(base.folder) and found["data"] == artifacts.content_hash(acts.held_out)
    other = study.run({"": (acts, replace(SMALL, lr=2e-3))}, [0, 1, 2])[""]
    again = stress.evidence(other, "random_model", value)
    assert again["candidate"] != found["candidate"] and again["digest"] != found["digest"]
    with pytest.raises(ValueError, match="endpoint"):
        stress.evidence(base, "", value)
    with pytest.raises(ValueError, match="other names"):
        stress.evidence(base, "ood", value, candidate="saes/else")
