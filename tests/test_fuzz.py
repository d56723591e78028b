"""Whatever comes in from files and parameters, it is taken or refused in our own words: never another traceback."""

import json
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import nbformat
import pytest
import runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_formats_hostile import CONFIGURATION, KINDS, WEIGHTS, valid

from husai import evidence, formats
from husai.config import ModelConfig, Objective, SAEConfig, TaskConfig, TrainConfig

ROOT = Path(__file__).parents[1]
OURS = (str(ROOT / "husai"), str(ROOT / "workflow"))
pytestmark = pytest.mark.usefixtures("unchecked")


def inputs(count: int) -> settings:
    """Return settings for that many inputs, the same in every run."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=slow)


def fair(call: Callable[[], Any], *words: str) -> bool:
    """Return whether a call succeeds; fail unless a refusal is a ValueError of ours that holds one of the words."""
    try:
        call()
        return True
    except ValueError as error:
        *_, (deepest, _) = traceback.walk_tb(error.__traceback__)
        assert deepest.f_code.co_filename.startswith(OURS), f"not ours: {error!r} in {deepest.f_code.co_filename}"
        assert any(word in str(error) for word in words), f"none of {words} named: {error}"
        return False


numbers = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 3, 16, 10**12, 2**63, 1e308])
plain = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
names = (
    "architecture d_sae d_in k dtype metadata seeds groups husai seed trainer activation_fn_kwargs activation_fn_str "
    "apply_b_dec_to_input normalize_activations dict_class training_architecture training_architecture_details "
    "rescale_acts_by_decoder_norm num_latents expansion_factor activation transcode matryoshka_widths l1 bandwidth"
).split()
architectures = st.sampled_from(["standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk", "relu"])


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return valid(tmp_path_factory.mktemp("sae") / "sae", request.param), request.param


@inputs(150)
@given(data=st.data())
def test_a_folder_whose_configuration_says_anything(folder, data):
    place, kind = folder
    path = place / CONFIGURATION[kind]
    kept = path.read_bytes()
    cfg = json.loads(kept)
    inner = [entry for entry in (cfg, *cfg.values()) if isinstance(entry, dict)]
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from(inner))
        name = data.draw(st.sampled_from([*where, *names]) if where else st.sampled_from(names))
        if data.draw(st.booleans()) and name in where:
            del where[name]
        else:
            where[name] = data.draw(values | architectures)
    try:
        path.write_text(json.dumps(cfg))
        fair(lambda: (formats.read(place), formats.metadata(place)), "wanted")
    finally:
        path.write_bytes(kept)


@inputs(100)
@given(data=st.data())
def test_a_folder_whose_files_are_damaged(folder, data):
    place, kind = folder
    weights = "ae.pt" if kind == "dictionary_learning" else WEIGHTS[kind]
    path = place / data.draw(st.sampled_from([weights, weights, CONFIGURATION[kind]]))
    kept = path.read_bytes()
    content = bytearray(kept)
    last = min(len(content), 8 + int.from_bytes(content[:8], "little")) - 1  # the header, or all
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255) | st.sampled_from(b'0129"[]{},:-'))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    try:
        path.write_bytes(content[:end])
        fair(lambda: formats.read(place), "wanted")
    finally:
        path.write_bytes(kept)


TAGS = ("int", "float", "timestamp", "bool", "binary", "set", "omap", "pairs", "python/object/apply:os.system")
PIECES = [
    "k: ", "wait: ", "kk: ", "profile: paper", "\n", "\n  ", "- ", "[", "]", "{", "}", ": ", "? ", "&a ", "*a", "<<: ",
    *(f"!!{tag} " for tag in TAGS), "[true]", "2001-99-99", "1:99:99", "0b_", "0x", "0o9", ".nan", "-.inf", "1e999",
    "9" * 5000, "[" * 3000, "|", ">", "%YAML 9.9", "---", "...", "\t", "\x00", "\ud7ff", "'", '"', "#", "yes", "~", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    nb.cells = [nbformat.v4.new_code_cell("k = 1\nwait = 0", metadata={"tags": ["parameters"]})]
    path = tmp_path_factory.mktemp("notebooks") / "22_b.ipynb"
    nbformat.write(nb, path)
    return path


@inputs(500)
@given(text=st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=40))
def test_parameters_of_any_text(notebook, text):
    path = notebook.with_suffix(".yml")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    fair(lambda: runner.refuse_unknown(notebook, runner.read_parameters(path), path), path.name)


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(str(value) if value is None else value).replace("NaN", "nan").replace("Infinity", "inf")


entry = st.dictionaries(
    st.sampled_from([*(field.name for field in fields(evidence.Claim)), "other"]),
    values | st.lists(st.dictionaries(st.sampled_from(["rule", "value", "threshold"]), values | st.just("above"))),
)
SCRAPS = [
    "[P1]\n", "verdict", " = ", "[", "]", "{", "}", '"', "'''", "\n", "1979-99-99", "9" * 5000, "a.b", "0x", "inf",
    "[" * 3000, ",", "\x00", "[[P1]]\n", "[P1.verdict]\n", "id = 1\n",
]  # fmt: skip
ledgers = st.dictionaries(st.sampled_from(["P1", "P2"]), entry | values).map(
    lambda ledger: "\n".join(f"{name} = {toml(content)}" for name, content in ledger.items())
)


@inputs(400)
@given(text=ledgers | st.lists(st.sampled_from(SCRAPS), max_size=10).map("".join) | st.text(max_size=30))
def test_a_ledger_of_any_text(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "claims.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    fair(lambda: evidence.load_claims(path), "claim", path.name)


tuples = st.lists(numbers, max_size=4).map(tuple)
parameters = plain.filter(lambda value: type(value) is not int or abs(value) < 10**300) | tuples


def said(config: type) -> list[str]:
    """Return how a refusal begins that names a field."""
    return [f"{field.name} is " for field in fields(config)]


def drawn(config: type, **more: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """Return arguments of a configuration: values of any type for some of its fields."""
    named = {field.name: parameters for field in fields(config)} | more
    return st.fixed_dictionaries({}, optional=named)


KNOWN = ("topk", "relu", "matryoshka", "hierarchical_topk", "route", "switch", "pinning", "consensus", "l2")
known = st.sampled_from(KNOWN)
SENSIBLE = {
    "d_sae": st.integers(1, 64), "k": st.integers(1, 8), "architecture": known, "layers": st.integers(1, 3),
    "experts": st.integers(1, 4), "groups": st.lists(st.integers(0, 64), max_size=3).map(tuple),
    "aligned": st.booleans(),
}  # fmt: skip
sensible = st.fixed_dictionaries({}, optional=SENSIBLE)


@inputs(300)
@given(given_=drawn(SAEConfig) | sensible | st.tuples(sensible, drawn(SAEConfig)).map(lambda two: two[0] | two[1]))
def test_saes_of_any_parameters(given_):
    fair(lambda: SAEConfig(**given_), *said(SAEConfig))


@inputs(200)
@given(given_=drawn(Objective, name=known | parameters))
def test_objectives_of_any_parameters(given_):
    fair(lambda: Objective(**given_), "objective is", *said(Objective))


@inputs(300)
@given(given_=drawn(TrainConfig, sae=st.just(SAEConfig(d_sae=16, k=2)), objective=st.just(Objective())))
def test_recipes_of_any_parameters(given_):
    given_ = {"sae": SAEConfig(d_sae=16, k=2)} | given_
    fair(lambda: TrainConfig(**given_), *said(TrainConfig))


@pytest.mark.parametrize("config", [TaskConfig, ModelConfig])
def test_tasks_and_models_of_any_parameters(config):
    @inputs(200)
    @given(given_=drawn(config, **({"p": st.integers(-5, 10**4)} if config is TaskConfig else {})))
    def check(given_):
        fair(lambda: config(**given_), *said(config))

    check()


@pytest.mark.parametrize("make", [lambda: SAEConfig(l1=10**400), lambda: TrainConfig("topk")])
def test_numbers_beyond_floats_and_parts_of_another_kind_are_refused(make):
    with pytest.raises(ValueError, match="l1 is|sae is"):
        make()
