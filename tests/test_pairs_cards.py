"""Model cards say where weights come from, and never hide a gate that failed."""

import pytest

from husai.evidence import Estimate
from husai.pairs import cards

ABOUT = {"model_name": "adhd", "hook_name": "blocks.2.hook_resid_post", "seed": 0, "model_seed": 1, "k": 16}
NUMBERS = {"explained_variance": Estimate(0.912, 0.905, 0.919, 3), "dead_share": 0.004}


def test_a_card_holds_its_numbers_gates_seeds_hook_and_licence(tmp_path):
    text = cards.card("adhd_L2", ABOUT, NUMBERS, {"FVE": True}, use="x = 1", limits="Small.")
    rows = ("| model seed | 1 |", "0.912 [0.905, 0.919]", "| dead share | 0.004 |", "| FVE | pass |")
    use = "```python\nx = 1\n```"
    for part in ("license: mit", "# adhd_L2", ABOUT["hook_name"], *rows, use, "Small.", "## Licence"):
        assert part in text
    assert "Fails" not in text
    assert cards.write(tmp_path / "new", text).read_text() == text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["README.md"]


def test_a_gate_that_failed_stands_at_the_top():
    text = cards.card("adhd_L2", ABOUT, NUMBERS, {"FVE": True, "dead share": False})
    assert "| dead share | FAIL |" in text
    assert text.index("Fails its quality gates: dead share") < text.index("## Measured")


def test_a_card_without_its_origin_is_refused():
    with pytest.raises(ValueError, match="about.*also .*hook_name"):
        cards.card("x", {"model_name": "adhd", "seed": 0, "model_seed": 1}, {}, {})
