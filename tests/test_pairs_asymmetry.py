"""The survey over models and seeds: a planted difference of style is found everywhere and comes back."""

import json

import numpy as np
import pytest
import torch

from husai import saes
from husai.activations import Activations
from husai.config import SAEConfig, TrainConfig
from husai.language import matched
from husai.language.gpt import GPTConfig
from husai.pairs import asymmetry, cells, diff, schemas
from husai.saes import SAEBatch
from husai.study import Study

D, LEVEL = 8, {"adhd": 0.6, "standard": 0.0}
CONFIG = GPTConfig(n_layers=3, n_heads=2, d_model=D, d_mlp=16)


def known(folder, acts, orders):
    """Return a study whose SAEs read coordinates, each seed in an order of its own."""
    rows = torch.stack([torch.eye(D)[order] for order in orders])
    n, seeds = len(orders), tuple(range(len(orders)))
    config = TrainConfig(SAEConfig("relu", D, D), steps=8)
    batch = SAEBatch(config.sae, seeds, rows.mT.contiguous(), -torch.ones(n, D), rows, torch.zeros(n, D))
    saes.save(batch, folder / "step_8")
    return Study(acts, config, seeds, folder)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Coordinate 0 is on at adhd onsets of adhd models only; of coordinates 1 to 7 all models make the same."""
    at = {style: diff.onsets(cells.corpus(style, "held_out", 2500, CONFIG)) for style in LEVEL}
    draw, values = torch.Generator().manual_seed(0), {}
    for corpus, where in at.items():
        shared = 2.0 * (torch.rand(len(where.document), D, generator=draw) < 0.3)
        opens = torch.rand(len(where.document), generator=draw) < LEVEL[corpus]
        for style in LEVEL:
            for i in range(3):
                own = shared.clone()
                own[:, 0] = 2.0 * opens if style == "adhd" else 0.0
                values[style, i, corpus] = own
    orders = [torch.randperm(D, generator=draw).tolist() for _ in range(4)]
    studies = {}
    for style in LEVEL:
        rows = values[style, 0, style]
        acts = Activations(rows, torch.arange(len(rows)) % 2 == 0, style)
        folder = tmp_path_factory.mktemp(style)
        studies[style] = [known(folder, acts, orders) for _ in range(3)]
    return asymmetry.survey(studies, values, at), orders


def test_the_planted_feature_is_found_by_every_seed_on_every_model(survey):
    found, orders = survey
    assert (found.counts == 1).all()
    for (_, s), one in found.contrasts.items():
        assert np.flatnonzero(one.asymmetric()).tolist() == [orders[s].index(0)] and one.chosen == orders[s].index(0)
    summary = found.summary()
    assert summary["asymmetric_share"].value == pytest.approx(1 / D) and summary["found_everywhere"]
    assert summary["foreign_standard_share"].value == pytest.approx(1 / D)
    assert summary["foreign_adhd_share"].value == 0 and summary["style_gap"].value == pytest.approx(1 / D)
    assert summary["silent"].value == 1 and summary["no_function"].value == 1 and summary["no_decoder"].value == 0


def test_another_models_axes_are_found_and_what_it_lacks_stays_lacking():
    """The same residuals in turned axes come back; a coordinate that the other model does not have does not."""
    draw = torch.Generator().manual_seed(0)
    shared = {corpus: torch.randn(400, D, generator=draw) for corpus in LEVEL}
    turn = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q
    values = {("adhd", 0, corpus): x for corpus, x in shared.items()}
    values |= {("adhd", 1, corpus): x @ turn + 1 for corpus, x in shared.items()}
    poorer = torch.eye(D)
    poorer[0, 0] = 0
    values |= {("standard", 1, corpus): x @ poorer @ turn for corpus, x in shared.items()}
    same = asymmetry.on_axes_of(values, ("adhd", 0), ("adhd", 1))
    assert torch.allclose(same, shared["adhd"], atol=1e-3)
    lacking = asymmetry.on_axes_of(values, ("adhd", 0), ("standard", 1))
    assert torch.allclose(lacking[:, 1:], shared["standard"][:, 1:], atol=0.3)
    assert float(lacking[:, 0].std()) < 0.3 < float(shared["standard"][:, 0].std())


def test_a_table_shows_contexts_in_words():
    assert asymmetry.shown(["a<|sep|> | sip water"]) == "“a,  | sip water”"


def test_it_comes_back_under_other_seeds_and_is_the_one_that_is_chosen(survey):
    found = survey[0].returns()
    for scope in ("seed", "model"):
        for name in ("function", "again", "chosen", "any_pair"):
            assert found[f"{scope}_{name}"].value == 1, (scope, name)
        assert found[f"{scope}_chance"].value == 0
    assert found["seed_decoder"].value == 1 and "model_decoder" not in found
    assert found["model_chosen"].n == 3


def test_the_artifact_lists_it_with_its_counts_senses_and_texts(survey, tmp_path):
    found, orders = survey
    rows = asymmetry.features(found, (0, 1), matched.tokenizer(CONFIG.vocabulary))
    assert [row["feature"] for row in rows] == [orders[1].index(0)]
    row, z = rows[0], found.readers[0, 1].codes[:, orders[1].index(0)]
    onsets = len(found.at["adhd"].document)
    assert row["fired_adhd"] == int((z[:onsets] != 0).sum()) and row["fired_standard"] == 0
    assert (row["silent"], row["no_decoder_match"], row["no_functional_match"]) == (True, False, True)
    assert len(row["contexts"]) == 3 and all(" | " in text for text in row["contexts"])
    summary = found.summary() | found.returns()
    content = asymmetry.artifact(found, (0, 1), 0, 2, rows, summary, "smoke")
    stored = json.loads(schemas.write("feature_diff", content, tmp_path).read_text())
    assert stored["sae"]["seed"] == 1 and stored["onsets"]["adhd"] == onsets and stored["latents_tested"] == D


def test_contexts_end_where_the_step_begins(survey):
    where, tok = survey[0].at["adhd"], matched.tokenizer(CONFIG.vocabulary)
    for row in (0, 5, 11):
        before, _, after = where.context(row, tok.decode, width=200).partition(" | ")
        text = where.texts.texts[int(where.document[row])]
        assert text.startswith(before + after.split("<|pad|>")[0]) and before.endswith(("<|sep|>", "<|steps|>"))
    regulation = where.regulation
    assert 0.1 < float(regulation.float().mean()) < 0.5
    assert not survey[0].at["standard"].regulation.any()


def test_fewer_than_three_models_are_refused(survey):
    found = survey[0]
    with pytest.raises(ValueError, match="three or more"):
        asymmetry.survey({style: row[:2] for style, row in found.studies.items()}, {}, found.at)
