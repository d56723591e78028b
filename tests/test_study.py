"""A study trains once, tells structure from its nulls on data whose truth is known, and voids claims about bad SAEs."""

from dataclasses import replace

import grimp
import numpy as np
import pytest
import torch

from husai import activations, calibration, comparison, contrasts, dynamics, metrics, nulls, shards, stats, study
from husai.config import Objective
from husai.recipes import converged
from husai.tasks import sparse_dictionary

SEEDS = (0, 1, 2, 3)
CONFIG = replace(converged(32, 3, steps=16384), batch_size=512, lr=3e-3, decay_share=0.8)

CANNOT_CHANGE_AN_SAE = {"artifacts", "evidence", "provenance", "matching", "config"}
"""The first three only write what was computed and say where it came from; of `metrics`, training uses quality alone,
`matching` serves the scores between dictionaries, and `config` only gathers the names of its modules."""


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(folder))
    acts = activations.split(sparse_dictionary(16, 32, 3, 10_000, seed=0).activations, seed=0, name="toy")
    found = study.run({"real": (acts, CONFIG), "N4": (acts.shuffled(0), CONFIG)}, SEEDS)
    yield found
    patch.undo()


def test_whatever_a_training_computes_with_counts_in_its_address():
    upstream = grimp.build_graph("husai", cache_dir=None).find_upstream_modules("husai.training")
    used = {name.removeprefix("husai.") for name in upstream} - {"husai"}
    assert sorted(used - CANNOT_CHANGE_AN_SAE - {*study.MODULES}) == []


def test_known_structure_beats_every_null(studies):
    real, shuffled = studies["real"], studies["N4"]
    for null in ("N0", "N2"):
        assert comparison.compare([real], null, "hungarian_mcc").gap.low > 0.2
    assert comparison.compare([real], [shuffled], "hungarian_mcc").gap.low > 0
    assert comparison.compare([real], [shuffled], "activation_matching").gap.low > 0


def test_conditions_differ_by_the_gaps_of_their_pairs(studies):
    real, shuffled = (comparison.compare([one], "N2", "hungarian_mcc") for one in studies.values())
    apart = contrasts.difference(real, shuffled)
    assert apart.value == pytest.approx(real.gap.value - shuffled.gap.value) and apart.low > 0
    other_way = contrasts.difference(shuffled, real)
    assert (apart.value, apart.low) == pytest.approx((-other_way.value, -other_way.high))
    nothing = contrasts.difference(real, real)
    assert nothing.value == nothing.low == nothing.high == 0 and "in this model" in nothing.method
    models = comparison.compare([studies["real"]] * 3, "N2", "hungarian_mcc")
    assert contrasts.difference(models, models).n == 3
    with pytest.raises(ValueError, match="wanted the models and seeds of a"):
        contrasts.difference(real, models)
    with pytest.raises(ValueError, match="wanted the metric and the null of a"):
        contrasts.difference(real, comparison.compare([studies["real"]], "N0", "hungarian_mcc"))


def test_sharing_a_noise_sample_adds_no_agreement_beyond_sharing_its_distribution(studies):
    """The pipeline's own null: seeds that see one Gaussian sample agree no more than seeds with a sample each."""
    acts = studies["real"].activations
    data = {"shared": acts.gaussian(0), "apart": [acts.gaussian(i) for i in range(len(SEEDS))]}
    found = study.run({name: (x, CONFIG) for name, x in data.items()}, SEEDS)
    assert abs(comparison.compare([found["shared"]], [found["apart"]]).gap.value) < 0.05


def test_shards_are_the_study_of_the_same_rows_in_memory(studies, tmp_path):
    acts, config = studies["real"].activations, converged(16, 3, steps=64)
    blocks = shards.write(tmp_path, acts.values.split(1000), 3000)
    found = study.run({"shards": (acts._replace(values=blocks), config), "memory": (acts, config)}, SEEDS)
    assert found["shards"].folder == found["memory"].folder, "one address"
    assert found["shards"].quality == found["memory"].quality
    assert torch.equal(found["shards"].alive, found["memory"].alive)
    with pytest.raises(ValueError, match="wanted a tensor"):
        comparison.drawn(found["shards"], "N2")


def test_the_shared_fraction_takes_encoders_too_and_its_options(studies):
    real = studies["real"]
    encoders = [one.T[kept] for one, kept in zip(real.saes.W_enc, real.alive, strict=True)]
    wanted = metrics.pairwise_matrix(metrics.shared_fraction, encoders, real.decoders, tau=0.9)
    strict = comparison.compare([real], "N2", "shared_fraction", tau=0.9)
    assert strict.score.value == pytest.approx(stats.pairwise(wanted).value)
    assert strict.score.value < comparison.compare([real], "N2", "shared_fraction", tau=0.3).score.value
    loose = comparison.compare([real], [studies["N4"]], "shared_fraction", tau=0.3)
    assert loose.null_score.value > comparison.compare([real], "N0", "shared_fraction", tau=0.99).null_score.value


def test_drawn_nulls_have_each_seeds_own_alive_count(studies):
    real = studies["real"]
    assert [len(rows) for rows in comparison.drawn(real, "N2")] == real.alive.sum(1).tolist()
    gap = comparison.compare([real], "N0").null_score
    assert gap.value == pytest.approx(nulls.expected_max_cosine(16, 32), abs=0.02)


def test_the_commonest_alive_latents_are_kept(studies):
    real, shuffled = studies["real"], studies["N4"]
    kept = shuffled.commonest([5] * len(SEEDS))
    assert kept.sum(1).tolist() == [5] * len(SEEDS)
    assert (shuffled.firing[kept].min() >= shuffled.firing[~kept].quantile(0.5)).item()
    assert torch.equal(real.commonest([99] * len(SEEDS)), real.alive)
    masked = torch.arange(32) >= 16
    few = shuffled.commonest([3] * len(SEEDS), masked.expand_as(shuffled.alive))
    assert few.sum(1).tolist() == [3] * len(SEEDS) and not few[:, :16].any()
    assert float(shuffled.firing[few].min()) >= float(shuffled.firing[:, 16:].sort(1).values[:, -4].min())


def test_gap_to_a_trained_null_is_taken_at_equal_alive_counts(studies):
    """A null with fewer alive latents must not win or lose by its size: the real side is cut to it."""
    acts = studies["real"].activations
    wide, narrow = (study.run({"x": (acts, converged(n, 3, steps=64))}, SEEDS)["x"] for n in (64, 24))
    counts = torch.minimum(wide.alive.sum(1), narrow.alive.sum(1)).tolist()
    want = wide.matrix("hungarian_mcc", wide.commonest(counts)) - narrow.matrix(
        "hungarian_mcc", narrow.commonest(counts)
    )
    assert comparison.compare([wide], [narrow], "hungarian_mcc").gap == comparison.summarise(want[None])


def test_two_models_are_refused_not_dropped(studies):
    with pytest.raises(ValueError, match="studies is 'two models'"):
        comparison.compare([studies["real"]] * 2, "N2")


def test_a_study_names_the_gates_that_it_fails(studies):
    acts = studies["real"].activations
    fresh = study.run({"x": (acts, converged(32, 3, steps=8))}, SEEDS)["x"]
    assert studies["real"].failures == "" and "not converged" in fresh.failures


def test_all_latents_and_alive_latents_differ_when_some_are_dead(studies):
    acts = studies["real"].activations
    wide = study.run({"x": (acts, converged(256, 3, steps=256))}, SEEDS)["x"]
    assert int((~wide.alive).sum()) > 0
    alive, every = (comparison.compare([wide], "N0", latents=latents).null_score.value for latents in ("alive", "all"))
    assert every > alive


def test_kappa_corrects_every_pair_for_chance_and_compares_conditions(studies):
    """Against N0, whose level depends on the widths alone, kappa is known from score and null."""
    found = comparison.compare([studies["real"]], "N0", "hungarian_mcc")
    expected = (found.score.value - found.null_score.value) / (1 - found.null_score.value)
    assert found.kappa.value == pytest.approx(expected, abs=1e-3)
    assert found.kappa.low < found.kappa.value < found.kappa.high and found.kappa.n == len(SEEDS)
    assert found.ratio.value == pytest.approx(found.score.value / found.null_score.value, rel=1e-2)
    assert found.table()["kappa_N0"] == str(found.kappa)


def test_dead_latents_lower_the_score_of_all_and_not_the_one_weighted_by_use(studies):
    """An SAE eight times too wide: most latents die where they started; those in use have found the truth."""
    acts = studies["real"].activations
    wide = study.run({"x": (acts, converged(256, 3, steps=256))}, SEEDS)["x"]
    score = "frequency_weighted_max_cosine"
    used = comparison.compare([wide], "N0", score, latents="all")
    every = comparison.compare([wide], "N0", latents="all")
    assert used.gap.low > every.gap.high
    assert used.null_score.value == pytest.approx(every.null_score.value, abs=0.03), "chance does not know of use"
    rates = [torch.ones(256) for _ in SEEDS]
    plain = study.score_matrix(score, wide.saes.decoders(), rates)
    assert np.allclose(plain, wide.scores("mean_max_cosine", "all"), atol=1e-6)


def test_settled_looks_past_dead_latents_but_not_past_a_start_that_was_not_left(studies):
    acts = studies["real"].activations
    fresh = study.run({"x": (acts, converged(32, 3, steps=8))}, SEEDS)["x"]
    assert comparison.settled([studies["real"]]) and not comparison.settled([studies["real"], fresh])


def test_sweep_groups_models_under_arm_and_configuration(studies):
    acts = studies["real"].activations
    found = study.sweep({"real": [acts], "N4": [acts.shuffled(0)]}, {16: converged(16, 3, steps=64)}, SEEDS)
    assert set(found) == {("real", 16), ("N4", 16)} and len(found["real", 16]) == 1
    rows = comparison.against_nulls(found["real", 16], {"N4": found["N4", 16]})
    assert list(rows) == ["N0", "N2", "N3", "N4"] and rows["N4"].null == "N4"
    assert list(comparison.against_nulls(found["real", 16], {"N4": found["N4", 16]}, "activation_matching")) == ["N4"]


def test_independent_data_a_seed_is_trained_apart(studies):
    acts = studies["real"].activations
    own = study.run({"x": ([acts.gaussian(i) for i in range(4)], converged(16, 3, steps=64))}, SEEDS)["x"]
    alone = study.training.train(acts.gaussian(2).fit, converged(16, 3, steps=64), [2]).saes
    assert own.saes.seeds == SEEDS and torch.equal(own.saes.W_dec[2], alone.W_dec[0])
    with pytest.raises(ValueError, match="activations is '3 of them'"):
        study.run({"x": ([acts] * 3, CONFIG)}, SEEDS)


def test_gates_pass_a_converged_sae_and_fail_a_fresh_one(studies):
    assert all(studies["real"].passes.values()), (studies["real"].passes, studies["real"].convergence)
    acts = studies["real"].activations
    fresh = study.run({"x": (acts, converged(32, 3, steps=8))}, SEEDS)["x"]
    assert not fresh.convergence.converged and not fresh.passes["converged"]


def test_three_models_give_a_crossed_interval_and_one_an_interval_in_this_model(studies):
    real = studies["real"]
    assert "model" in comparison.compare([real] * 3, "N2").gap.method
    alone = comparison.compare([real], "N2").gap
    assert alone.n == len(SEEDS) and alone.method.endswith("in this model")


def test_a_second_run_trains_nothing(studies, monkeypatch):
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(studies["real"].folder.parents[1]))
    monkeypatch.setattr(study.training, "train", lambda *a, **k: pytest.fail("trained again"))
    again = study.run({"real": (studies["real"].activations, CONFIG)}, SEEDS)["real"]
    assert again.folder == studies["real"].folder


def test_an_executor_changes_nothing(studies):
    from concurrent.futures import ThreadPoolExecutor

    acts = studies["real"].activations
    small = converged(24, 3, steps=64)
    with ThreadPoolExecutor(2) as pool:
        spread = study.run({k: (acts, converged(k, 3, steps=64)) for k in (16, 24)}, SEEDS, executor=pool)
    assert torch.equal(spread[24].saes.W_dec, study.training.train(acts.fit, small, SEEDS).saes.W_dec)


def test_trajectory_starts_at_the_initialisation(studies):
    acts = studies["real"].activations
    one = study.run({"x": (acts, converged(48, 3, steps=64))}, SEEDS, trajectory=True)["x"]
    rows = dynamics.trajectory(one)
    assert [row["step"] for row in rows] == [0, 8, 16, 32, 64]
    assert rows[0]["init_cosine"].value == pytest.approx(1, abs=1e-5)
    assert rows[0]["mean_max_cosine"].value == pytest.approx(nulls.expected_max_cosine(16, 48), abs=0.02)
    assert rows[-1]["fvu"].value < rows[0]["fvu"].value


def test_a_stopped_study_is_the_study_of_its_checkpoint(studies):
    acts, config = studies["real"].activations, replace(converged(24, 3, steps=96), decay_share=0.0)
    long = study.run({"x": (acts, config)}, SEEDS, at=[24, 12])["x"]
    short = study.run({"x": (acts, replace(config, steps=24))}, SEEDS)["x"]
    assert long.steps == [0, 12, 24, 48, 96]
    then = long.stopped(24)
    assert torch.equal(then.saes.W_dec, short.saes.W_dec), "without decay, the first steps of both are the same"
    assert then.quality == short.quality and then.convergence == short.convergence
    assert comparison.compare([then], "N0").score == comparison.compare([short], "N0").score
    assert long.quality != then.quality
    assert long.stopped(0).convergence.init_cosine == pytest.approx(1, abs=1e-5)


def test_trained_nulls_compare_living_latents_only(studies):
    with pytest.raises(ValueError, match="latents is 'all'; wanted 'alive'"):
        comparison.compare([studies["real"]], [studies["real"]], latents="all")


def test_updates_count_the_latents_that_are_active(studies):
    one = studies["real"]
    l0, c = one.quality["l0"].value, one.config
    assert one.convergence.updates == pytest.approx(c.steps * c.batch_size * l0 / c.sae.d_sae)


def test_a_reference_is_part_of_the_address_and_of_the_training(studies):
    one = studies["real"]
    config = replace(CONFIG, steps=256, objective=Objective("pinning", rows=8))
    first, second, again = (study.run({0: (one.activations, config, one.saes[i])}, SEEDS)[0] for i in (0, 1, 0))
    assert first.folder == again.folder != second.folder
    assert all(torch.equal(rows[:8], one.saes.W_dec[0, :8]) for rows in first.saes.W_dec)
    assert torch.equal(second.saes.W_dec[2, :8], one.saes.W_dec[1, :8])


def test_data_of_its_own_a_seed_is_refused_where_seeds_are_coupled(studies):
    acts = studies["real"].activations
    with pytest.raises(ValueError, match="activations is '4 of them'"):
        study.run({0: ([acts] * 4, replace(CONFIG, objective=Objective("contrastive", 0.1)))}, SEEDS)


def test_two_seeds_are_refused(studies):
    with pytest.raises(ValueError, match="seeds is .*at least 3 seeds"):
        study.run({"x": (studies["real"].activations, CONFIG)}, (0, 1))


def test_unknown_nulls_and_misplaced_metrics_are_refused(studies):
    with pytest.raises(ValueError, match="null is 'N9'"):
        comparison.compare([studies["real"]], "N9")
    with pytest.raises(ValueError, match="null is 'N2'"):
        comparison.compare([studies["real"]], "N2", "activation_matching")


def test_comparison_table_names_its_null(studies):
    row = comparison.compare([studies["real"]], "N2").table()
    assert "N2" in row["null"] and np.isfinite(float(row["kappa_N2"].split()[0]))


def test_k_is_chosen_once_for_all_arms_kept_and_used(studies, monkeypatch):
    monkeypatch.setattr(calibration, "CANDIDATES", (1, 3, 12))
    monkeypatch.setattr(calibration, "STEPS", 200)
    acts = studies["real"].activations
    auto = replace(CONFIG, steps=8, sae=replace(CONFIG.sae, k="auto"))
    found = study.sweep({"real": [acts], "noise": [acts.gaussian(0)]}, {"x": auto}, SEEDS)
    ks = {studied.config.sae.k for (studied,) in found.values()}
    assert ks == {study.calibrate_l0(acts, auto, SEEDS).k} and len(ks) == 1
    monkeypatch.setattr(study.training, "resolve", None)  # a second look trains nothing
    assert [entry["k"] for entry in study.calibrate_l0(acts, auto, SEEDS).curve] == [1, 3, 12]


def test_scores_of_different_k_are_not_compared(studies):
    real = studies["real"]
    other = replace(real, config=replace(real.config, sae=replace(real.config.sae, k=5)))
    with pytest.raises(ValueError, match=r"k is \[3, 5\]"):
        comparison.compare([real], [other])
