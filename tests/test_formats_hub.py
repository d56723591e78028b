"""Folders on the Hugging Face Hub: a repository in the layout of connaaa/interpgpt-sae-phase5, and no network."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from husai import formats
from husai.config import SAEConfig
from husai.formats import hub
from husai.saes import SAEBatch

REPO, COMMIT, OLD = "connaaa/interpgpt-sae-phase5", "a" * 40, "b" * 40
CELL = "adhd_L2_hook_resid_post"
D, F, K = 8, 32, 4
X = torch.randn(50, D, generator=torch.Generator().manual_seed(1))


def published(repository: Path, rescale: bool | None = True) -> SAEBatch:
    """Write the seven folders, decoder rows of different lengths; return the SAE of one as stored."""
    draw = torch.Generator().manual_seed(0)
    cells = [
        f"{m}_L{n}_hook_resid_post" for m, layers in (("standard", range(4)), ("adhd", range(1, 4))) for n in layers
    ]
    for name in cells:
        W_dec = torch.randn(1, F, D, generator=draw) * torch.logspace(-1, 1, F)[:, None]
        W_enc, b_enc = torch.randn(1, D, F, generator=draw), torch.randn(1, F, generator=draw)
        one = SAEBatch(SAEConfig("topk", F, K), (42,), W_enc, b_enc, W_dec, torch.randn(1, D, generator=draw))
        formats.write_sae_lens(one, repository / name, {"hook_name": "blocks.2.hook_resid_post"})
        cfg = json.loads((repository / name / "cfg.json").read_text())
        cfg.pop("rescale_acts_by_decoder_norm")
        cfg |= {} if rescale is None else {"rescale_acts_by_decoder_norm": rescale}
        (repository / name / "cfg.json").write_text(json.dumps(cfg))
        (repository / name / "sparsity.safetensors").write_bytes(b"not asked for")
        (repository / name / "ae.pt").write_bytes(b"a pickle, never asked for")
        if name == CELL:
            found = one
    return found


def in_cache(repository: Path, commit: str = COMMIT, ref: str = "main") -> None:
    """Put a repository into the local cache as huggingface_hub lays it out."""
    cache = Path(constants.HF_HUB_CACHE) / "models--connaaa--interpgpt-sae-phase5"
    shutil.copytree(repository, cache / "snapshots" / commit, dirs_exist_ok=True)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / ref).write_text(commit)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub that has one repository at two commits; returns the names that it was asked for, in order."""
    asked = []
    revisions = {"main": COMMIT, "v1": OLD, COMMIT: COMMIT, OLD: OLD}

    def download(repo_id, filename, *, revision, cache_dir):
        asked.append((filename, revision))
        response = type("Response", (), {"headers": {}, "request": None, "status_code": 404, "text": ""})()
        if repo_id != REPO:
            raise errors.RepositoryNotFoundError("404", response=response)
        if revision not in revisions:
            raise errors.RevisionNotFoundError("404", response=response)
        commit = revisions[revision]
        source = tmp_path / f"hub_{commit[0]}" / filename
        if not source.exists():
            raise errors.RemoteEntryNotFoundError("404", response=response)
        cache = Path(cache_dir) / f"models--{repo_id.replace('/', '--')}"
        target = cache / "snapshots" / commit / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        if revision != commit:
            (cache / "refs").mkdir(exist_ok=True)
            (cache / "refs" / revision).write_text(commit)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_cached_folder_is_read_without_a_network(tmp_path):
    one = published(tmp_path / "hub")
    in_cache(tmp_path / "hub")
    again = formats.read(f"hf://{REPO}/{CELL}")
    assert again.seeds == (42,) and again.config.k == K
    local = formats.read(tmp_path / "hub" / CELL)
    assert torch.equal(again.encode(X), local.encode(X)) and torch.equal(again.W_dec, local.W_dec)
    assert not torch.equal(again.encode(X), one.encode(X))  # the file asks for the rescaling
    assert formats.metadata(formats.where(f"hf://{REPO}/{CELL}"))["hook_name"] == "blocks.2.hook_resid_post"


@pytest.mark.parametrize("rescale", [True, False, None])
def test_the_rescaling_by_decoder_norms_is_what_the_file_says(tmp_path, rescale):
    one = published(tmp_path / "hub", rescale)
    in_cache(tmp_path / "hub")
    again = formats.read(f"hf://{REPO}/{CELL}")
    pre = (X - one.b_dec[0]) @ one.W_enc[0] + one.b_enc[0]
    norms = one.W_dec[0].norm(dim=-1)
    scaled = pre * norms if rescale else pre
    best = scaled.topk(K, dim=-1)
    z = torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())
    wanted = (z / norms if rescale else z) @ one.W_dec[0] + one.b_dec[0]
    assert torch.equal(again.encode(X)[0] != 0, z != 0)
    assert torch.allclose(again.decode(again.encode(X))[0], wanted, atol=1e-4)


def test_a_revision_names_the_weights(tmp_path):
    published(tmp_path / "new")
    published(tmp_path / "old")
    stored = load_file(tmp_path / "old" / CELL / "sae_weights.safetensors")
    save_file({**stored, "b_dec": stored["b_dec"] + 1}, tmp_path / "old" / CELL / "sae_weights.safetensors")
    in_cache(tmp_path / "new")
    in_cache(tmp_path / "old", OLD, "v1")
    new, tag, commit = (formats.read(f"hf://{REPO}{at}/{CELL}") for at in ("", "@v1", f"@{OLD}"))
    assert torch.equal(tag.b_dec, commit.b_dec) and torch.allclose(tag.b_dec, new.b_dec + 1)


def test_without_a_network_the_error_says_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(ValueError) as refused:
        formats.read(f"hf://{REPO}/{CELL}")
    for part in ("cfg.json", "sae_weights.safetensors", f"huggingface.co/{REPO}/tree/main/{CELL}", "hf download",
                 str(tmp_path / "cache"), "models--connaaa--interpgpt-sae-phase5"):  # fmt: skip
        assert part in str(refused.value)
    published(tmp_path / "hub")
    in_cache(tmp_path / "hub")
    with pytest.raises(ValueError, match=f"@v9.*revisions of it that lie here: {COMMIT}, main"):
        formats.read(f"hf://{REPO}@v9/{CELL}")


def test_only_the_files_that_are_needed_come_down_and_all_of_one_commit(tmp_path, online):
    published(tmp_path / "hub_a")
    formats.read(f"hf://{REPO}/{CELL}")
    assert online == [(f"{CELL}/cfg.json", "main"), (f"{CELL}/sae_weights.safetensors", COMMIT)]
    formats.read(f"hf://{REPO}/{CELL}")
    assert len(online) == 2  # the second time nothing is asked
    there = formats.where(f"hf://{REPO}/{CELL}")
    assert {path.name for path in there.iterdir()} == {"cfg.json", "sae_weights.safetensors"}


def test_the_scale_of_activations_comes_down_when_the_configuration_asks_for_it(tmp_path, online):
    published(tmp_path / "hub_a")
    folder = tmp_path / "hub_a" / CELL
    cfg = json.loads((folder / "cfg.json").read_text()) | {"normalize_activations": "expected_average_only_in"}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match="activation_scaler.json"):
        formats.read(f"hf://{REPO}/{CELL}")
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.5}))
    again, plain = formats.read(f"hf://{REPO}/{CELL}"), formats.read(tmp_path / "hub_a" / "adhd_L1_hook_resid_post")
    assert torch.equal(again.encode(X), formats.read(folder).encode(X)) and again.config == plain.config


def test_what_the_hub_does_not_have_is_named(tmp_path, online):
    published(tmp_path / "hub_a")
    with pytest.raises(ValueError, match="repository is 'nobody/nothing'"):
        formats.read(f"hf://nobody/nothing/{CELL}")
    with pytest.raises(ValueError, match="revision is 'v9'.*branch, a tag or a commit"):
        formats.read(f"hf://{REPO}@v9/{CELL}")
    with pytest.raises(ValueError, match="cfg.json, and it has none"):
        formats.read(f"hf://{REPO}/standard_L9")
    (tmp_path / "hub_a" / CELL / "sae_weights.safetensors").unlink()
    with pytest.raises(ValueError, match="a pickle is never read"):
        formats.read(f"hf://{REPO}/{CELL}")
    assert not any(name.endswith(".pt") for name, _ in online)


@pytest.mark.parametrize(
    "text", ["hf://only-owner", "hf://a/b/../c", "hf://a/b@/c", "hf://a/b//c", "hf:///a/b", "hf://a b/c/d"]
)
def test_an_address_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match="hf://owner/repo/folder"):
        formats.read(text)


def test_the_parts_of_an_address():
    assert hub.address("hf://a/b") == ("a/b", "main", "")
    assert hub.address("hf://a/b@v1/c/d/") == ("a/b", "v1", "c/d")
    assert hub.address("hf://a/b@refs%2Fpr%2F1/c") == ("a/b", "refs/pr/1", "c")


def test_saes_that_do_not_fit_the_activations_are_refused(tmp_path):
    published(tmp_path)
    one = formats.read(tmp_path / CELL)
    formats.require_width(one, D)
    with pytest.raises(ValueError, match="d_model of the SAEs is 8; wanted 96, the width of adhd"):
        formats.require_width(one, 96, "adhd L2")
