"""What is handed to SAEBench, what comes back, and what a page says without its environment."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from husai import activations, grokking, models
from husai.benches import environment, saebench
from husai.config import ModelConfig, SAEConfig, TaskConfig
from husai.evidence import Estimate
from husai.formats import read
from husai.saes import SAEBatch
from husai.tasks import generator, sequences

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def two_layers() -> models.Models:
    task, shape = TaskConfig(p=11), ModelConfig(n_layers=2, d_model=16, n_heads=4, d_mlp=24)
    data = sequences(task)
    return models.Models(shape, task, (0,), models.initialise(shape, data.vocabulary, data.tokens.shape[1], [0]), (0,))


def sae(seeds: int = 3, d_model: int = 16, d_sae: int = 24) -> SAEBatch:
    rows = torch.randn(seeds, d_sae, d_model, generator=generator(0, "test/saebench"))
    rows = torch.nn.functional.normalize(rows, dim=-1)
    zeros = torch.zeros(seeds, d_sae), torch.zeros(seeds, d_model)
    encoder = rows.transpose(1, 2).contiguous()
    return SAEBatch(SAEConfig("topk", d_sae, 4), tuple(range(seeds)), encoder, zeros[0], rows, zeros[1])


def emulated(one: saebench.Hooked) -> torch.Tensor:
    """Return the logits of all positions, computed as TransformerLens does: einsums over heads, every bias."""
    w, heads = one.weights, one.config["n_heads"]
    x = w["embed.W_E"][one.tokens] + w["pos_embed.W_pos"][: one.tokens.shape[1]]
    for layer in range(one.config["n_layers"]):
        a = f"blocks.{layer}.attn."
        q, k, v = (torch.einsum("bpd,hde->bhpe", x, w[f"{a}W_{n}"]) + w[f"{a}b_{n}"][:, None] for n in "QKV")
        score = q @ k.transpose(-1, -2) / one.config["d_head"] ** 0.5
        future = torch.ones(score.shape[-2:], dtype=torch.bool).triu(1)
        z = score.masked_fill(future, -torch.inf).softmax(-1) @ v
        assert z.shape[1] == heads
        x = x + torch.einsum("bhpe,hed->bpd", z, w[f"{a}W_O"]) + w[f"{a}b_O"]
        m = f"blocks.{layer}.mlp."
        x = x + torch.relu(x @ w[f"{m}W_in"] + w[f"{m}b_in"]) @ w[f"{m}W_out"] + w[f"{m}b_out"]
    return x @ w["unembed.W_U"] + w["unembed.b_U"]


def test_the_handed_model_is_ours_at_the_read_out_and_the_answer_behind_it_changes_nothing(two_layers):
    rows = torch.tensor([0, 5, 40, 120])
    one = saebench.hooked(two_layers, rows)
    data = sequences(two_layers.task)
    assert torch.equal(one.tokens[:, :-1], data.tokens[rows]) and torch.equal(one.tokens[:, -1], data.answers[rows])
    assert one.position == 4 and one.read == [two_layers.task.p + 2]
    logits = emulated(one)
    assert torch.allclose(logits[:, one.position], two_layers.logits(data.tokens[rows])[0], atol=1e-5)
    assert torch.allclose(one.logits, two_layers.logits(data.tokens[rows])[0], atol=1e-6)


def test_a_shift_moves_the_last_residual_stream_by_that_much(two_layers):
    rows, shift = torch.arange(6), torch.linspace(-1, 1, 16)
    plain, moved = (saebench.hooked(two_layers, rows, by) for by in (None, shift))
    unembed = plain.weights["unembed.W_U"]
    assert torch.allclose(moved.logits - plain.logits, (shift @ unembed).expand_as(plain.logits), atol=1e-5)
    assert torch.allclose(emulated(moved)[:, moved.position], moved.logits, atol=1e-5)


def test_only_one_clean_model_is_handed_over(two_layers):
    with pytest.raises(ValueError, match="models is"):
        saebench.hooked(grokking.substrate("clean", [0, 1], p=11, steps=0), torch.arange(3))
    leaked = grokking.substrate("leaked", [0], p=11, n_layers=1, steps=0)
    with pytest.raises(ValueError, match="clean"):
        saebench.hooked(leaked, torch.arange(3))


def test_the_constant_sae_explains_nothing():
    x = torch.randn(200, 16, generator=generator(1, "test/saebench")) + 3
    row = saebench.constant(x.mean(0)).quality(x, x.mean(0))[0]
    assert row["fvu"] == pytest.approx(1) and row["l0"] == 0 and row["alive"] == 0


def test_saes_are_handed_one_folder_a_seed(tmp_path: Path):
    batch = sae()
    environment.hand_saes(tmp_path, {"a": batch, "b": batch[0]}, "model", "blocks.2.hook_resid_post")
    assert environment.names({"a": batch, "b": batch[0]}) == ["a_0", "a_1", "a_2", "b_0"]
    back = read(tmp_path / "a_1")
    assert torch.equal(back.W_dec, batch[1].W_dec)
    about = json.loads((tmp_path / "b_0" / "cfg.json").read_text())["metadata"]
    assert (about["hook_layer"], about["hook_name"]) == (2, "blocks.2.hook_resid_post")


def test_without_an_environment_nothing_is_asked_and_the_page_says_why(tmp_path: Path, two_layers):
    for at in ("", str(tmp_path / "nothing")):
        assert environment.python(at) is None
        assert environment.status(at).startswith("not run: ") and "make env-evals" in environment.status(at)
        acts = activations.collect(two_layers, HOOK)[0]
        right = sequences(two_layers.task).answers
        assert saebench.core(two_layers, HOOK, acts, {"sae": sae()}, 1.0, at) == {}
        assert saebench.sparse_probing(acts, right, [0, 1], HOOK, {"sae": sae()}, [1], at) == {}
        assert saebench.texts(["5_hist_fig_ismale"], 200, at) == {}
        assert saebench.sae_probes({}, {}, HOOK, {"sae": sae()}, [1], at) == {}
    half = tmp_path / "half" / "bin"
    half.mkdir(parents=True)
    (half / "python").write_text("")
    assert environment.python(str(half.parent)) is None, "an installation that was not finished has no file `ready`"


def test_what_was_not_run_has_the_same_keys_as_what_was():
    scores = {"sae": np.full((4, 3), 0.8) + 0.01 * np.arange(3), "dense": np.full((4, 1), 0.9)}

    def over(values: np.ndarray) -> Estimate:
        return Estimate(float(values.mean()), float(values.min()), float(values.max()), len(values))

    run, not_run = (saebench.deltas(given, ("sae", "dense"), over, "x") for given in (scores, {}))
    assert run.keys() == not_run.keys() and set(not_run.values()) == {"not run"}
    assert run["x_minus_dense"].value == pytest.approx(-0.09)
    found = {f"sae_{seed}": {"l0": 4.0 + seed, "kl": None} for seed in range(3)} | {"one_0": {"l0": 1.0, "kl": 2.0}}
    assert saebench.over_seeds(found, "sae", ("l0", "kl"))["l0"].value == pytest.approx(5)
    assert saebench.over_seeds(found, "sae", ("l0", "kl"))["kl"] == "not defined"
    assert saebench.over_seeds(found, "one", ("l0",)) == {"l0": 1.0}
    assert saebench.over_seeds({}, "sae", ("l0", "kl")) == {"l0": "not run", "kl": "not run"}


def fake(folder: Path, script: str) -> str:
    """Make an environment whose interpreter is a script."""
    (folder / "bin").mkdir(parents=True)
    (folder / "ready").touch()
    (folder / "bin" / "python").write_text(f"#!{sys.executable}\nimport json, sys\nat = sys.argv[2]\n{script}\n")
    (folder / "bin" / "python").chmod(0o755)
    return str(folder)


def answer(versions: dict[str, str], results: str = "[{'a': 1}]") -> str:
    return f"json.dump({{'versions': {versions}, 'results': {results}}}, open(at + '/results.json', 'w'))"


def test_answers_are_kept_until_something_that_is_handed_over_changes(tmp_path: Path):
    locked = dict(line.split("==") for line in environment.LOCK.read_text().split() if "==" in line)
    versions = {"sae-bench": locked["sae-bench"], "torch": locked["torch"] + "+cpu"}
    count = tmp_path / "count"
    script = f"open({str(count)!r}, 'a').write('x')\n" + answer(versions)
    at = fake(tmp_path / "env", script)
    for content, asked in (("one", 1), ("one", 1), ("two", 2)):
        found = environment.answers(at, [{"job": "x"}], lambda folder, c=content: (folder / "f").write_text(c))
        assert found == [{"a": 1}] and len(count.read_text()) == asked


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (answer({"sae-bench": "0.0.1"}), "versions of the environment"),
        ("sys.exit('no such dataset')", "evals ended with 1.*no such dataset"),
        ("pass", "wanted results.json"),
    ],
)
def test_what_did_not_answer_as_it_should_is_an_error(tmp_path: Path, script: str, message: str):
    with pytest.raises(ValueError, match=message):
        environment.answers(fake(tmp_path / "env", script), [{"job": "x"}], lambda folder: None)


def test_the_script_imports_nothing_of_the_library_and_the_lock_pins_what_it_asks():
    script = Path(environment.__file__).with_name("_inside.py").read_text()
    assert "import husai" not in script and "from husai" not in script
    locked = environment.LOCK.read_text()
    for name in ("sae-bench==0.6.0", "sae-lens==6.54.12", "transformer-lens==3.9.0", "torch==2.13.0", "xgboost-cpu=="):
        assert name in locked
    assert "nvidia" not in locked and "\ntorchvision" not in locked


def test_tasks_of_texts_keep_the_split_and_its_order():
    item = saebench.Texts([f"text {i}" for i in range(20)], [0, 1] * 10, [*range(12)], [19, 15, 13, 12, 14, 16, 17, 18])
    rows = {"a": torch.arange(40.0).reshape(20, 2)}
    (task,) = saebench.text_tasks({"a": item}, rows)
    assert task.rows[12].tolist() == [38.0, 39.0] and int(task.training.sum()) == 12
    assert task.labels[12:15].tolist() == [True, True, True]
    turned = saebench.text_tasks({"a": item._replace(test=item.test[::-1])}, rows)[0]
    assert task.slice != turned.slice


def test_the_last_token_of_the_text_is_read_not_the_special_one_behind_it():
    from husai.language.pretrained import load

    model = load("minilm")
    documents = ["a short text", "another text that is rather longer than the context allows for"]
    found = saebench.last_tokens(model, documents, "blocks.2.hook_resid_post", 8)
    tokens = model.tokenize(documents, 8)
    every = model.at(tokens, "blocks.2.hook_resid_post")
    assert torch.allclose(found[0], every[0, 3], atol=1e-5), "[CLS] a short text [SEP]: the fourth token"
    assert torch.allclose(found[1], every[1, 6], atol=1e-5), "the last before [SEP]"
    with pytest.raises(ValueError, match="hook"):
        saebench.last_tokens(model, documents, "blocks.9.hook_resid_post", 8)
