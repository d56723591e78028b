"""Language models, their hooks and their activations: on the embedded encoder and on a tiny GPT-NeoX made here."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from husai import saes
from husai.activations import Activations
from husai.config import SAEConfig
from husai.language import collect, pretrained, site, splice
from husai.text import corpus

WORDS = [f"word{i}" for i in range(40)]


def texts(number: int, length: int = 30, seed: int = 0) -> list[str]:
    """Return random word salads, no two alike."""
    draw = torch.Generator().manual_seed(seed)
    return [" ".join(WORDS[i] for i in torch.randint(40, (length,), generator=draw)) for _ in range(number)]


def corpus_of(documents: list[str]) -> corpus.Corpus:
    return corpus.of("salad", documents, ["made up"] * len(documents))


@pytest.fixture(scope="module")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a randomly initialised GPT-NeoX and its tokenizer, as the hub would hold them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPTNeoXConfig, GPTNeoXModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-neox")
    vocabulary = {word: i for i, word in enumerate(["<|endoftext|>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=end, eos_token=end, unk_token=end).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=48, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPTNeoXModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def neox(neox_folder: Path) -> pretrained.LanguageModel:
    return pretrained.load(str(neox_folder))


@pytest.fixture(scope="module")
def minilm() -> pretrained.LanguageModel:
    return pretrained.load()


def test_the_embedded_encoder_knows_what_is_alike(minilm: pretrained.LanguageModel) -> None:
    assert (minilm.d_model, minilm.n_layers, len(minilm.hooks)) == (384, 6, 25)
    alike = ["A man is eating food.", "A person eats a meal.", "The stock market fell sharply today."]
    embedded = minilm.embed(minilm.tokenize(alike, 16))
    similarity = embedded @ embedded.T
    assert torch.allclose(similarity.diag(), torch.ones(3))
    assert similarity[0, 1] > 0.5 > 0.2 > similarity[0, 2]


def test_special_tokens_and_padding_are_not_kept(minilm: pretrained.LanguageModel) -> None:
    tokens = minilm.tokenize(["one two", "one two three four five six seven"], 6)
    assert tokens.mask.tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert tokens.kept.tolist() == [[False, True, True, False, False, False], [False] + [True] * 4 + [False]]


def test_padding_changes_nothing(minilm: pretrained.LanguageModel, neox: pretrained.LanguageModel) -> None:
    for model, text in ((minilm, "a short text"), (neox, "word1 word2 word3")):
        short, long = (model.tokenize([text], context) for context in (8, 24))
        hook = model.hooks[-1]
        a, b = (model.at(tokens, hook)[tokens.kept] for tokens in (short, long))
        assert torch.allclose(a, b, atol=1e-5)


def test_a_causal_model_without_special_tokens_begins_with_its_own(neox: pretrained.LanguageModel) -> None:
    tokens = neox.tokenize(["word0 word1"], 5)
    assert tokens.ids.tolist() == [[0, 1, 2, 0, 0]]
    assert tokens.kept.tolist() == [[False, True, True, False, False]]


@pytest.mark.parametrize("which", ["minilm", "neox"])
def test_the_last_hook_is_the_hidden_state_that_the_library_reports(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    tokens = model.tokenize(["word1 word2 word3 word4"], 12)
    states = model.network(input_ids=tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True)
    for layer in range(model.n_layers - 1):  # the last one of a GPT-NeoX is reported after its final norm
        assert torch.equal(model.at(tokens, f"blocks.{layer}.hook_resid_post"), states.hidden_states[layer + 1])
    assert torch.equal(model.at(tokens, "hook_embed"), states.hidden_states[0])


def test_a_bert_block_is_its_parts_normalised(minilm: pretrained.LanguageModel) -> None:
    tokens, block = minilm.tokenize(["a text of seven or eight tokens"], 10), minilm.network.encoder.layer[2]
    before = minilm.at(tokens, "blocks.1.hook_resid_post")
    names = ("attn_out", "resid_mid", "mlp_out", "resid_post")
    attn, mid, mlp, post = (minilm.at(tokens, f"blocks.2.hook_{name}") for name in names)
    assert torch.allclose(mid, block.attention.output.LayerNorm(before + attn), atol=1e-6)
    assert torch.allclose(post, block.output.LayerNorm(mid + mlp), atol=1e-6)


def test_a_neox_block_adds_both_sublayers_at_once(neox: pretrained.LanguageModel) -> None:
    tokens = neox.tokenize(texts(2), 8)
    names = ("blocks.0.hook_resid_post", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post")
    before, attn, mlp, post = (neox.at(tokens, name) for name in names)
    assert torch.allclose(post, before + attn + mlp, atol=1e-6)


@pytest.mark.parametrize("which", ["minilm", "neox"])
def test_hooks_replace_what_follows_and_only_that(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    tokens, seen = model.tokenize(["word1 word2 word3"], 8), {}

    def zero(name: str, value: Tensor) -> Tensor | None:
        seen[name] = value
        return torch.zeros_like(value) if name == "blocks.1.hook_resid_post" else None

    plain, changed, again = model.embed(tokens), model.embed(tokens, zero), model.embed(tokens)
    assert tuple(seen) == model.hooks
    assert torch.equal(plain, again) and not torch.allclose(plain, changed)
    assert torch.equal(seen["blocks.0.hook_resid_post"], model.at(tokens, "blocks.0.hook_resid_post"))
    assert not torch.allclose(seen["blocks.2.hook_resid_post"], model.at(tokens, "blocks.2.hook_resid_post"))
    with pytest.raises(ValueError, match="hooks at hook_embed is 'one of shape"):
        model.run(tokens, lambda name, value: value[:, :-1])


def test_randomised_weights_have_the_same_scale_and_no_meaning(minilm: pretrained.LanguageModel) -> None:
    random = minilm.randomised(0)
    for (name, value), other in zip(minilm.network.named_parameters(), random.network.parameters(), strict=True):
        if value.numel() > 10_000:
            assert abs(other.std() / value.std() - 1) < 0.05, name
            assert abs(torch.corrcoef(torch.stack([value.flatten(), other.flatten()]))[0, 1]) < 0.05, name
    assert random.digest != minilm.digest == pretrained.load().digest
    assert random.digest == minilm.randomised(0).digest != minilm.randomised(1).digest


def test_collected_rows_are_those_of_the_tokens_they_name(neox: pretrained.LanguageModel) -> None:
    documents, hook = texts(30), "blocks.1.hook_resid_post"
    found = collect.collect(neox, corpus_of(documents), hook, 200, 16)
    assert len(found.ids) == len(found.acts.values) == 200
    for row in (0, 57, 199):
        tokens = neox.tokenize([documents[found.document[row]]], 16)
        place = int(found.position[row])
        assert tokens.ids[0, place] == found.ids[row] and tokens.kept[0, place]
        assert torch.allclose(neox.at(tokens, hook)[0, place], found.acts.values[row], atol=1e-5)


def test_documents_are_held_out_whole(neox: pretrained.LanguageModel) -> None:
    found = collect.collect(neox, corpus_of(texts(40)), "hook_embed", 400, 16, repeats=True)
    training = set(found.document[found.acts.training].tolist())
    held_out = set(found.document[~found.acts.training].tolist())
    assert held_out and not training & held_out and len(held_out) < len(training)


def test_collecting_again_reads_the_artifact_and_other_content_does_not(
    neox: pretrained.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, hook = corpus_of(texts(20)), "blocks.0.hook_resid_post"
    first = collect.collect(neox, text, hook, 50, 16)
    built = []
    monkeypatch.setattr(collect.shards, "write", lambda *a, **k: built.append(a) or 1 / 0)
    again = collect.collect(neox, text, hook, 50, 16)
    assert torch.equal(first.acts.values, again.acts.values) and torch.equal(first.ids, again.ids)
    for other in (
        lambda: collect.collect(neox, text, hook, 50, 16, seed=1),
        lambda: collect.collect(neox, text, hook, 50, 12),
        lambda: collect.collect(neox, corpus_of(texts(20, seed=1)), hook, 50, 16),
        lambda: collect.collect(neox.randomised(0), text, hook, 50, 16),
    ):
        with pytest.raises(ZeroDivisionError):
            other()
    assert len(built) == 4


def test_repeated_beginnings_and_rows_are_dropped_and_counted(neox: pretrained.LanguageModel) -> None:
    base = texts(20, 8)
    same, other = [f"{text} word0" for text in base[:5]], [text[: text.rindex(" ")] + " word39" for text in base[5:8]]
    read = corpus_of([*base, *same, *other])  # at context 9 the first plants are repeated, the others but for their end
    beginnings = {tuple(text.split()[:end]) for text in [*base, *other] for end in range(1, 9)}
    unique, total = len(beginnings), 8 * 23  # what a causal model tells apart, and what it reads
    found = collect.collect(neox, read, "blocks.2.hook_resid_post", unique, 9)
    assert (found.repeated, found.duplicates) == (5, total - unique) and unique < total - 3 * 6
    with pytest.raises(ValueError, match=f"at most {unique}, all that"):
        collect.collect(neox, read, "blocks.2.hook_resid_post", unique + 1, 9)
    kept = collect.collect(neox, read, "blocks.2.hook_resid_post", total, 9, repeats=True)
    assert (kept.repeated, kept.duplicates, len(kept.ids)) == (5, total - unique, total)
    looked_up = collect.collect(neox, read, "hook_embed", len(set(found.ids.tolist())), 9)
    assert len(set(looked_up.ids.tolist())) == len(looked_up.ids)  # an embedding has one row a token


def test_the_size_of_batches_and_shards_changes_no_row(
    neox: pretrained.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, hook = corpus_of(texts(30)), "blocks.1.hook_resid_post"
    first = collect.collect(neox, text, hook, 300, 16)
    monkeypatch.setattr(collect, "ROWS", 64)
    monkeypatch.setattr(collect, "IN_MEMORY", 10)
    small = collect.collect(neox, text, hook, 300, 16, seed=0, repeats=False)
    assert isinstance(small.acts, Activations) and not isinstance(small.acts.values, Tensor)
    assert torch.equal(small.acts.values.load(), first.acts.values)
    other = collect.collect(neox, corpus_of(texts(30)), hook, 299, 16)
    assert torch.allclose(other.acts.values.load(), first.acts.values[:299], atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_of_collect_is_named(neox: pretrained.LanguageModel) -> None:
    text = corpus_of(texts(4))
    with pytest.raises(ValueError, match="hook is 'blocks.9.hook_mlp_out'; wanted one of hook_embed, blocks.0"):
        collect.collect(neox, text, "blocks.9.hook_mlp_out", 20, 16)
    with pytest.raises(ValueError, match="hook is 'x'; wanted one of hook_embed"):
        neox.at(neox.tokenize(["word1"], 4), "x")
    with pytest.raises(ValueError, match=r"tokens is 1000; wanted at most 60, all that salad has at context 16"):
        collect.collect(neox, text, "blocks.1.hook_resid_post", 1000, 16)
    with pytest.raises(ValueError, match="tokens is 2"):
        collect.collect(neox, text, "hook_embed", 2, 16)
    with pytest.raises(ValueError, match="context is 65; wanted 4 to 64"):
        collect.collect(neox, text, "hook_embed", 20, 65)
    with pytest.raises(ValueError, match="all of one document"):
        collect.collect(neox, corpus_of(texts(1)), "blocks.1.hook_resid_post", 10, 16)


def test_a_spliced_sae_changes_text_tokens_only(neox: pretrained.LanguageModel) -> None:
    tokens, hook = neox.tokenize(texts(3, 5), 8), "blocks.1.hook_resid_post"
    draw = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(16, 16, generator=draw)).Q  # both signs of a basis: reconstructs exactly
    decoder = torch.cat([rows, -rows])[None]
    exact = saes.SAEBatch(SAEConfig(d_sae=32, k=16), (0,), decoder.mT, torch.zeros(1, 32), decoder, torch.zeros(1, 16))
    same = neox.embed(tokens, splice.spliced(neox, hook, exact, tokens))
    assert torch.allclose(same, neox.embed(tokens), atol=1e-5)
    seen = {}
    silenced = splice.spliced(neox, hook, exact, tokens, torch.arange(32))

    def look(name: str, value: Tensor) -> Tensor | None:
        seen[name] = silenced(name, value)
        return seen[name]

    changed = neox.embed(tokens, look)
    assert not torch.allclose(changed, same, atol=1e-3)
    assert seen[hook][tokens.kept].abs().max() < 1e-5
    assert torch.equal(seen[hook][~tokens.kept], neox.at(tokens, hook)[~tokens.kept])
    with pytest.raises(ValueError, match="hook is 'x'; wanted one of hook_embed"):
        splice.spliced(neox, "x", exact, tokens)


def test_an_sae_of_another_width_is_refused(neox: pretrained.LanguageModel) -> None:
    weights = torch.ones(1, 8, 4), torch.zeros(1, 4), torch.ones(1, 4, 8), torch.zeros(1, 8)
    sae = saes.SAEBatch(SAEConfig(d_sae=4, k=1), (0,), *weights)
    with pytest.raises(ValueError, match="sae is 'one for d_model = 8'; wanted one for .*: 16"):
        splice.spliced(neox, "hook_embed", sae, neox.tokenize(["word1"], 4))


def copy(folder: Path, to: Path, **changed: object) -> Path:
    """Copy a model's folder; the keywords change its config.json."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **changed}))
    return to


def test_a_tokenizer_of_another_model_is_refused(neox_folder: Path, tmp_path: Path) -> None:
    other = copy(neox_folder, tmp_path / "other")
    text = (other / "tokenizer.json").read_text().replace('"word39": 40', '"word39": 48')
    (other / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="tokenizer is 'one with ids up to 48'; wanted that of other, which embeds 48"):
        pretrained.load(str(other))


def test_folders_that_are_no_model_are_refused(neox_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="name is 'empty'; wanted a folder with a config.json"):
        pretrained.load(str(tmp_path / "empty"))
    strange = copy(neox_folder, tmp_path / "strange", model_type="gpt2")
    with pytest.raises(ValueError, match="name is 'strange, a gpt2'; wanted a model of type bert or gpt_neox"):
        pretrained.load(str(strange))
    bare = copy(neox_folder, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="name is 'bare'; wanted a folder with its complete weights"):
        pretrained.load(str(bare))
    with pytest.raises(ValueError, match="revision is 'v1'; wanted '': what is on this machine has one version"):
        pretrained.load(str(neox_folder), "v1")


def test_a_copy_in_the_store_stands_for_the_hub(neox_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = pretrained.artifacts.root() / "pretrained" / "EleutherAI--pythia-70m-deduped"
    place.parent.mkdir(parents=True)
    copy(neox_folder, place)
    assert pretrained.load("pythia-70m-deduped").digest == pretrained.load(str(neox_folder)).digest


def test_without_a_network_the_reader_is_told_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"does not answer. Download config.json.*-deduped/tree/e93a9f.* put"):
        pretrained.load("pythia-70m-deduped")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RevisionNotFoundError", "revision is 'v9'; wanted a commit, tag or branch of someone/model"),
        ("RepositoryNotFoundError", "name is 'someone/model'; wanted 'minilm', a folder"),
    ],
)
def test_what_the_hub_does_not_have_is_named(error: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    kind = getattr(huggingface_hub.errors, error)

    def refuse(*args: object, **kwargs: object) -> None:
        raise kind.__new__(kind)  # as the hub's client raises it, but for the response that it carries

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=message):
        pretrained.load("someone/model", "v9")


def test_the_site_is_the_same_artifact_for_everyone() -> None:
    first = site.text_site(tokens=400, packages=("numpy",))
    again = site.text_site(tokens=400, packages=("numpy",))
    assert torch.equal(first.text.acts.values, again.text.acts.values)
    assert first.text.acts.values.shape == (400, 384)
    study = site.text_study(first, d_sae=8, steps=4, seeds=(0, 1, 2), k=2)
    assert study.folder == site.text_study(again, d_sae=8, steps=4, seeds=(0, 1, 2), k=2).folder
    shuffled, random = (site.arms(first)[name][0] for name in ("N4", "N5"))
    assert shuffled.values.shape == random.values.shape == (400, 384)
    assert torch.allclose(shuffled.values.mean(0), first.text.acts.values.mean(0), atol=1e-3)
