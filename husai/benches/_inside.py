"""What runs inside the environment of SAEBench, as a script: `python _inside.py FOLDER` answers FOLDER/jobs.json.

It imports what that environment has and nothing of husai. Models and activations come as safetensors, SAEs as sae_lens
folders; the answers go to FOLDER/results.json, one a job, with the versions that gave them. Nothing is downloaded.
"""

import hashlib
import importlib.util
import json
import math
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("sae-bench", "sae-probes", "sae-lens", "transformer-lens", "torch")
SEED = 42  # that of both packages


def core(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """SAEBench `core` on a model of ours: first its logits have to be ours, then every SAE replaces its activations.

    Only tokens `read` count: all others are ignored, and keep their activations.
    """
    import torch
    from datasets import Dataset
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import run_evals
    from sae_lens.training.activations_store import ActivationsStore
    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    folder = folder / job["folder"]
    weights, data = load_file(folder / "model.safetensors"), load_file(folder / "data.safetensors")
    model = HookedTransformer(HookedTransformerConfig(**job["config"], device="cpu", seed=0))
    given = {name for name, _ in model.named_parameters()}
    if given != weights.keys():
        raise ValueError(f"parameters are {sorted(weights)}; wanted {sorted(given)}")
    model.load_state_dict(weights, strict=False)  # the masks of attention are no parameters
    tokens = data["tokens"]
    with torch.no_grad():
        off = (model(tokens)[:, job["position"]] - data["logits"]).abs().max().item()
    if not off <= 1e-3 * data["logits"].abs().max().item():
        raise ValueError(f"logits differ by {off}; wanted those of the model that was handed over")
    how = CoreEvalConfig(
        model_name=job["name"], batch_size_prompts=len(tokens), n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1, context_size=tokens.shape[1], compute_kl=True, compute_ce_loss=True,
        compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
    )  # fmt: skip
    ignored = set(range(job["config"]["d_vocab"])) - set(job["read"])
    found = {}
    for name in job["saes"]:
        sae = _sae(folder / name)
        rows = Dataset.from_dict({"tokens": tokens.tolist()})
        store = ActivationsStore.from_sae(model, sae, dataset=rows, context_size=tokens.shape[1], streaming=False)
        groups, _ = run_evals(sae, store, model, how, ignore_tokens=ignored)
        values = {key: float(value) for group in groups.values() for key, value in group.items()}
        # a probability of 0 makes its KL undefined
        found[name] = {key: value if math.isfinite(value) else None for key, value in values.items()}
    return {"logits_difference": off, "saes": found}


def sparse_probing(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """SAEBench `sparse_probing` on labelled activations that are handed over: accuracy, by class and k.

    The probe on all latents is not run: its training stops where the test accuracy is best.
    """
    import sae_bench.evals.sparse_probing.probe_training as training
    import torch
    from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
    from sae_bench.evals.sparse_probing.main import run_eval_single_sae
    from sae_bench.sae_bench_utils.activation_collection import create_meaned_model_activations
    from safetensors.torch import load_file

    folder = folder / job["folder"]
    acts: dict[str, dict] = {"train": {}, "test": {}}
    for key, value in load_file(folder / "data.safetensors").items():
        part, name = key.split("/")
        acts[part][name] = value[:, None]  # [items, positions = 1, d_model]
    means = [create_meaned_model_activations(acts[part]) for part in ("train", "test")]
    torch.manual_seed(SEED)
    alone = {f"llm_top_{k}_test_accuracy": training.train_probe_on_activations(*means, k)[1] for k in job["sizes"]}
    alone["llm_test_accuracy"] = training.train_probe_on_activations(*means, None)[1]
    cache = folder / f"{job['name']}_cache"
    cache.mkdir()
    torch.save(acts | {"llm_results": alone}, cache / f"{job['name']}_activations.pt")
    how = SparseProbingEvalConfig(
        model_name=job["name"], dataset_names=[job["name"]], k_values=job["sizes"], llm_dtype="float32",
        lower_vram_usage=False, random_seed=SEED,
    )  # fmt: skip
    found = {}
    for name in job["saes"]:
        _, by_class = run_eval_single_sae(how, _sae(folder / name), None, "cpu", str(cache))
        rows = by_class[f"{job['name']}_results"]
        found[name] = {key: dict(row) for key, row in rows.items() if key.startswith("sae_top_")}
    return {"model": alone, "saes": found}


def texts(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Balanced slices of the data sets inside sae-probes, their answers, and the split that sae-probes makes of them.

    The slices are written as a data folder of the same layout, which `sae_probes` then reads in place of its own.
    """
    import numpy as np
    import pandas as pd

    own = Path(importlib.util.find_spec("sae_probes").origin).parent / "data"  # type: ignore
    listed = pd.read_csv(own / "probing_datasets_MASTER.csv.zst")
    listed = listed[listed["Data type"] == "Binary Classification"]
    stems = listed["Dataset save name"].map(lambda name: Path(name).name.split(".")[0])
    names = job["datasets"] or list(stems)
    unknown = sorted(set(names) - set(stems))
    if unknown:
        raise ValueError(f"datasets are {unknown}; wanted names of sae_probes.DATASETS, as {stems.iloc[0]}")
    (folder / "data" / "cleaned_data").mkdir(parents=True)
    kept = listed[stems.isin(names)]
    kept.to_csv(folder / "data" / "probing_datasets_MASTER.csv.zst", index=False)
    found = {}
    for path, name in zip(kept["Dataset save name"], stems[stems.isin(names)], strict=True):
        frame = pd.read_csv(own / f"{path}.zst")
        sides = [side for _, side in frame.groupby("target")]
        half = min(job["texts"] // 2, *map(len, sides))
        chosen = pd.concat([side.sample(half, random_state=SEED) for side in sides]).sample(frac=1, random_state=SEED)
        chosen.to_csv(folder / "data" / f"{path}.zst", index=False)
        answers = np.unique(chosen["target"], return_inverse=True)[1]
        found[name] = {"texts": chosen["prompt"].astype(str).tolist(), "labels": answers.tolist()}
    utils = _sae_probes(folder / "data").utils_data
    for name, item in found.items():
        size = len(item["labels"])
        fit = min(size - 100, 1024)
        answers = utils.get_yvals(name)
        if answers.tolist() != item["labels"]:
            raise ValueError(f"answers of {name} are read otherwise by sae_probes; wanted the same order")
        train, test = utils.get_train_test_indices(answers, fit, size - fit - 1, 0.5, SEED)
        item |= {"train": train.tolist(), "test": test.tolist()}
    return found


def sae_probes(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """`sae_probes`, setting normal: k latents under an L1 penalty, and logistic regression on the activations."""
    import torch
    from safetensors.torch import load_file

    library = _sae_probes(folder / "data")
    hook, model, cache = job["hook"], job["name"], folder / "cache"
    (cache / f"model_activations_{model}").mkdir(parents=True)
    acts = load_file(folder / "data.safetensors")
    for name, value in acts.items():
        torch.save(value, cache / f"model_activations_{model}" / f"{name}_{hook}.pt")
    slices = {}
    for name, value in acts.items():
        parts = library.utils_data.get_xy_traintest(
            min(len(value) - 100, 1024), name, hook, model_name=model, model_cache_path=cache, seed=SEED
        )
        slices[name] = hashlib.sha256(b"".join(_bytes(part) for part in parts)).hexdigest()[:12]
    common = {"model_name": model, "hook_name": hook, "setting": "normal", "device": "cpu", "seed": SEED}
    common |= {"model_cache_path": cache, "datasets": list(acts)}
    library.run_baseline_evals(**common, method="logreg", results_path=folder / "baseline")
    found = {"baseline": _metrics(folder / "baseline")}
    for name in job["saes"]:
        at = folder / f"{name}_results"
        library.run_sae_evals(sae=_sae(folder / name), ks=job["sizes"], reg_type="l1", results_path=at, **common)
        found[name] = _metrics(at)
    return {"slices": slices, "scores": found}


def _bytes(part: Any) -> bytes:
    """Return activations as float32 and answers as int64, row by row."""
    import numpy as np

    x = np.asarray(part)
    return x.astype(np.int64 if x.ndim == 1 else np.float32).tobytes()


def _metrics(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return by data set the metrics that lie in a results folder of sae_probes, one entry a k."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        rows = json.loads(path.read_text())
        keys = ("k", "test_auc", "test_acc", "test_f1", "val_auc")
        found[rows[0]["dataset"]] = [{key: row[key] for key in keys if key in row} for row in rows]
    return found


def _sae(folder: Path) -> Any:
    """Return an SAE, with its configuration where SAEBench looks for it."""
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
    from sae_lens import SAE

    _, sae, _ = load_and_format_sae(folder.name, SAE.load_from_disk(str(folder)), "cpu")  # type: ignore
    return sae


def _sae_probes(data: Path) -> Any:
    """Import sae_probes with another data folder: all of its modules read it from one constant."""
    own = Path(importlib.util.find_spec("sae_probes").origin).parent / "constants.py"  # type: ignore
    spec = importlib.util.spec_from_file_location("sae_probes.constants", own)
    constants = importlib.util.module_from_spec(spec)  # type: ignore
    sys.modules["sae_probes.constants"] = constants
    spec.loader.exec_module(constants)  # type: ignore
    constants.DATA_PATH = data  # type: ignore
    import sae_probes
    import sae_probes.utils_data

    if sae_probes.utils_data.DATA_PATH != data:
        raise ValueError(f"sae_probes reads {sae_probes.utils_data.DATA_PATH}; wanted {data}")
    return sae_probes


def main(folder: Path) -> None:
    """Answer the jobs of a folder in their order."""
    jobs = {"core": core, "sparse_probing": sparse_probing, "texts": texts, "sae_probes": sae_probes}
    found = [jobs[job["job"]](folder, job) for job in json.loads((folder / "jobs.json").read_text())]
    answer = {"versions": {name: version(name) for name in PACKAGES}, "results": found}
    (folder / "results.json").write_text(json.dumps(answer, allow_nan=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
