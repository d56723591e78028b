"""What a profile costs: the law finds planted exponents, the paper profile costs what it took, no number left out."""

import json
from pathlib import Path

import cost
import pytest
import trainings

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planted(notebook: str, seeds: int, steps: int, batch: int, d_sae: int, d_model: int, off: float = 1.0) -> dict:
    """Return a training whose seconds are a known law."""
    seconds = off * 1e-5 * seeds**1.1 * steps * batch**0.9 * d_sae**0.6 * d_model**0.5
    found = {"notebook": notebook, "kind": "saes", "architecture": "topk", "objective": "", "core_seconds": seconds}
    return found | dict(zip(trainings.SIZES, (seeds, steps, batch, d_sae, d_model), strict=True))


def grid(off: float) -> list[dict]:
    """Return trainings of ten notebooks, the last of which take `off` times what the law says."""
    sizes = [
        (3 + i % 3, 500 * (1 + i % 7), 128 * 2 ** (i % 4), 32 * 2 ** (i % 5), 16 * 2 ** (i // 9)) for i in range(40)
    ]
    return [planted(f"{i % 10}", *row, off=off if i % 10 >= 7 else 1.0) for i, row in enumerate(sizes)]


def test_the_law_finds_planted_exponents_and_how_far_off_it_is() -> None:
    law = trainings.fitted(grid(1.0))
    assert law.exponents == pytest.approx({"seeds": 1.1, "steps": 1, "batch": 0.9, "d_sae": 0.6, "d_model": 0.5})
    assert law.factor == pytest.approx(1)
    assert 2 < trainings.fitted(grid(4.0)).factor < 8


def test_the_reference_run_is_the_basis() -> None:
    law = trainings.fitted(trainings.read())
    assert law.exponents["steps"] == pytest.approx(1, abs=0.15), "twice the steps, twice the seconds"
    assert law.exponents["seeds"] == pytest.approx(1, abs=0.3)
    assert 0.2 < law.exponents["d_sae"] < 1.1 and 1 < law.factor < 3


def test_the_paper_profile_costs_what_it_took() -> None:
    table = trainings.read()
    rows = cost.estimate("paper", table)
    took = sum(row["core_seconds"] for row in table if any(one.notebook[:2] == row["notebook"] for one in rows))
    assert sum(row.core_seconds.value for row in rows) == pytest.approx(took) and took > 0
    assert all(row.core_seconds.low == row.core_seconds.high and not row.not_counted and row.gib < 8 for row in rows)


def test_the_full_profile_costs_more_within_limits_and_every_number_counts() -> None:
    table = trainings.read()
    for paper, full in zip(cost.estimate("paper", table), cost.estimate("full", table), strict=True):
        assert full.core_seconds.low <= full.core_seconds.value <= full.core_seconds.high, full
        assert full.core_seconds.value >= paper.core_seconds.value * 0.99 and full.gib >= paper.gib, full
        assert set(full.not_counted) <= {"anchors", "datasets"}, full


def test_how_many_times_the_work() -> None:
    law = trainings.Law({"seeds": 1.0, "steps": 1.0, "batch": 1.0, "d_sae": 0.5, "d_model": 0.5}, 2.0)
    before = cost.sizes("22_x", {"seeds": [0, 1, 2], "steps": 100, "width": 64, "k": 3, "ks": [1, 2]})
    after = cost.sizes("22_x", {"seeds": [0, 1, 2, 3, 4, 5], "steps": 300, "width": 256, "k": 9, "ks": [1, 2, 3, 4]})
    low, value, high = cost.work("saes", before, after, law)
    assert (low, value, high) == pytest.approx((12, 24, 96)), "2 x 3 x 2 x 2, halved; linear in width, doubled"
    assert cost.work("beside", before, after, law) == pytest.approx((4, 16, 16)), "steps do not count there"
    more = after | {"data": [[90.0]]}
    assert cost.work("beside", before | {"data": [[30.0]]}, more, law) == pytest.approx((4, 16, 48)), "rows, too"
    models = cost.sizes(
        "62_x", {"model_seeds": [0, 1], "steps": 10, "batch": 4, "shape": [2, 8, 16, 32], "sizes": [9, 5]}
    )
    assert models["gpt_steps"] == [[10.0]] and "steps" not in models and models["mlp"] == [[32.0]]
    longer = models | {"gpt_steps": [[30.0]], "context": [[20.0]]}
    assert cost.work("gpts", models, longer, law) == pytest.approx((3, 6, 12)), (
        "texts that do, or do not, fill the context"
    )


def test_trainings_are_measured_once_and_told_from_the_rest(tmp_path: Path) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    results.mkdir()
    for name, seconds in (("models/a", 50.0), ("models/b", 30.0)):
        (store / name).mkdir(parents=True)
        (store / name / "manifest.json").write_text(json.dumps({"seconds": seconds}))
    finished = "2100-01-01T00:00:00+00:00"  # neither was trained in that run
    for stem, inputs in (("11_a", ["models/a"]), ("22_b", ["models/a", "models/b", "models/gone"])):
        content = {"seconds": 7.0, "finished": finished, "inputs": dict.fromkeys(inputs, "")}
        (results / f"{stem}.provenance.json").write_text(json.dumps(content))
    rows = [(r["notebook"], r["kind"], r["core_seconds"]) for r in trainings.measured(results, store)]
    assert rows == [("11", "models", 50.0), ("11", "beside", 7.0), ("22", "models", 30.0), ("22", "beside", 7.0)]


def test_notebooks_side_by_side_share_the_cores() -> None:
    assert trainings.share([(0, 10), (10, 20)], 2) == 2
    assert trainings.share([(0, 10), (0, 10)], 2) == 1
    assert trainings.share([(0, 30), (10, 20), (100, 110)], 2) == pytest.approx(2 * 40 / 50)


def test_the_estimate_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["cost.py", "full"])
    cost.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("Profile full") and "core-hours" in head
    assert len([line for line in lines if line[:2].isdigit()]) == len(
        list(Path("notebooks").glob("[0-9][0-9]_*.ipynb"))
    )
    assert any(line.startswith("all ") for line in lines) and any("factor of" in line for line in lines)
