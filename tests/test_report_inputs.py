"""SAEs are read from every library's folders without their encoders, and what does not fit is refused by name."""

import json

import pytest
import torch
from report_planted import D, activations, as_dictionary_learning, as_sparsify, folder, one
from safetensors.torch import save_file

from husai import formats, report, saes
from husai.artifacts import write_tensors
from husai.report.activity import read_activations
from husai.report.inputs import duplicates, open_inputs


def test_decoders_are_those_that_the_formats_read(tmp_path):
    folders = [folder(tmp_path, 0), as_sparsify(one(1, n=56), tmp_path / "sparse")]
    folders.append(as_dictionary_learning(one(2), tmp_path / "dl"))
    saes.save(saes.stack([one(3), one(4)]), tmp_path / "own")
    found = open_inputs([*folders, tmp_path / "own"])
    kinds = ["sae_lens", "sparsify", "dictionary_learning", "husai", "husai"]
    assert [x.declared.format for x in found] == kinds
    assert [x.name for x in found] == ["sae_0", "sparse", "dl", "own[0]", "own[1]"]
    assert [x.declared.seeds[x.position] for x in found] == [0, None, 2, 3, 4]
    assert [x.d_sae for x in found] == [40, 56, 40, 40, 40] and {x.declared.k for x in found} == {4}
    for x in found:
        whole = x.sae().W_dec[0]
        assert torch.equal(torch.cat([x.rows(0, 7), x.rows(7, x.d_sae)]), whole)
    assert torch.equal(found[3].rows(0, 40), one(3).W_dec[0]) and torch.equal(found[4].rows(0, 40), one(4).W_dec[0])


def test_a_half_precision_file_is_rounded_as_it_declares(tmp_path):
    path = folder(tmp_path, 0)
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps({**cfg, "dtype": "bfloat16"}))
    found = open_inputs([path, folder(tmp_path, 1)])[0]
    assert torch.equal(found.rows(0, 40), formats.read(path).W_dec[0])
    assert not torch.equal(found.rows(0, 40), one(0).W_dec[0])


def test_names_tell_the_folders_apart(tmp_path):
    for run in ("run_a", "run_b"):
        as_dictionary_learning(one(0), tmp_path / run / "trainer_0")
    found = open_inputs([tmp_path / run / "trainer_0" for run in ("run_a", "run_b")])
    assert [x.name for x in found] == ["run_a/trainer_0", "run_b/trainer_0"]
    assert duplicates(found) == [[0, 1]]


def spoil(path, **entries):
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps({**cfg, **entries}))


def truncated(root):
    file = folder(root, 7) / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:500])


def huge_header(root):
    (folder(root, 7) / "sae_weights.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def without_decoder(root):
    path = folder(root, 7)
    sae = one(7)
    save_file({"W_enc": sae.W_enc[0], "b_enc": sae.b_enc[0]}, path / "sae_weights.safetensors")


def not_finite(root):
    sae = one(7)
    weights = {name: getattr(sae, name)[0].clone() for name in saes.WEIGHTS}
    weights["W_dec"][3, 2] = torch.nan
    save_file(weights, folder(root, 7) / "sae_weights.safetensors")


BROKEN = {
    "another width": (lambda root: folder(root, 7, d=D + 1), "d_model of folder sae_7 is 25; wanted 24"),
    "transcoder": (lambda root: spoil(folder(root, 7), architecture="transcoder"), "folder sae_7.*transcoder"),
    "skip transcoder": (lambda root: as_sparsify_transcoder(root), "folder sae_7.*transcode"),
    "truncated": (truncated, "folder sae_7.*sae_weights.safetensors"),
    "huge header": (huge_header, "folder sae_7.*sae_weights.safetensors"),
    "no decoder": (without_decoder, "folder sae_7.*without W_dec.*decoder"),
    "not finite": (not_finite, "decoder of sae_7.*finite"),
    "another size": (lambda root: spoil(folder(root, 7), d_sae=41), "folder sae_7.*41"),
    "no number": (lambda root: spoil(folder(root, 7), d_sae="many"), "folder sae_7.*d_sae.*many"),
    "not JSON": (lambda root: (folder(root, 7) / "cfg.json").write_text("{"), "folder sae_7.*cfg.json"),
    "empty": (lambda root: (root / "sae_7").mkdir(), "folder sae_7.*ae.pt"),
}


def as_sparsify_transcoder(root):
    spoil(as_sparsify(one(7), root / "sae_7"), transcode=True)


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_no_sae_is_refused_by_its_name(tmp_path, name):
    plant, message = BROKEN[name]
    good = folder(tmp_path, 0)
    plant(tmp_path)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        report.evaluate([good, tmp_path / "sae_7"])


def test_a_pickle_that_runs_something_is_refused_and_nothing_runs(tmp_path):
    class Spy:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = as_dictionary_learning(one(7), tmp_path / "sae_7")
    torch.save({"decoder.weight": Spy()}, path / "ae.pt")
    with pytest.raises(ValueError, match="folder sae_7.*ae.pt"):
        report.evaluate([folder(tmp_path, 0), path])
    assert not (tmp_path / "ran").exists()


def test_one_sae_is_not_enough_and_one_folder_of_ours_may_be(tmp_path):
    with pytest.raises(ValueError, match=r"folders is \['sae_0'\]; wanted at least two"):
        report.evaluate([folder(tmp_path, 0)])
    with pytest.raises(ValueError, match="folders"):
        report.evaluate([])
    saes.save(saes.stack([one(3), one(4)]), tmp_path / "own")
    assert [x["name"] for x in report.evaluate([tmp_path / "own"])["inputs"]] == ["own[0]", "own[1]"]


ACTS = {
    "width": ({"x": torch.randn(200, D + 1)}, "width of acts.safetensors is 25; wanted 24"),
    "dimensions": ({"x": torch.randn(20, 20, D)}, "a matrix"),
    "rows": ({"x": torch.randn(99, D)}, "rows of acts.safetensors is 99; wanted at least 100"),
    "infinite": ({"x": torch.full((200, D), torch.inf)}, "finite"),
    "constant": ({"x": torch.ones(200, D)}, "vary"),
    "integers": ({"x": torch.ones(200, D, dtype=torch.int64)}, "int64"),
    "keys": ({"x": torch.randn(200, D), "y": torch.randn(200, D)}, "keys of acts.safetensors.*named 'activations'"),
}


@pytest.mark.parametrize("name", ACTS)
def test_activations_that_do_not_fit_are_refused(tmp_path, name):
    tensors, message = ACTS[name]
    write_tensors(tmp_path / "acts.safetensors", tensors)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        read_activations(tmp_path / "acts.safetensors", D, 1000)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "acts.safetensors").write_text("no")
    for name in ("acts.safetensors", "missing.safetensors"):
        with pytest.raises(ValueError, match=f"activations is '{name}'"):
            read_activations(tmp_path / name, D, 1000)


def test_of_many_rows_a_fixed_random_share_is_used(tmp_path):
    path = activations(tmp_path, rows=9000, name="activations")
    first, again = (read_activations(path, D, 500) for _ in range(2))
    assert first.rows == 9000 and first.x.shape == (500, D) and torch.equal(first.x, again.x)
    whole = read_activations(path, D, 9000).x
    places = [int((whole == row).all(1).nonzero()[0]) for row in first.x[::50]]
    assert places == sorted(places) and places[-1] > 4096
