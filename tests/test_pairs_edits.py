"""A changed model reads whole texts and one token at a time alike; decoding is token by token."""

import pytest
import torch
from pairs_planted import TEXTS_OF, random_model

from husai.pairs.decoding import greedy, steps
from husai.pairs.edits import edited, recorded, regulation, swapped, without_head

END, SEPARATOR = 5, 4
TOKENS = TEXTS_OF["adhd"].tokens[:6]


def one_by_one(model, row, length, longest):
    said = row[:length].tolist()
    while len(said) < longest and (len(said) == length or said[-1] != END):
        said.append(int(model.logits(torch.tensor([said]))[0, 0, -1].argmax()))
    return said + [END] * (longest - len(said))


def test_decoding_is_token_by_token_whatever_the_lengths_of_the_prompts() -> None:
    model, lengths = random_model(0, ending=END), torch.tensor([3, 5, 4, 9, 1, 6])
    found = greedy(edited(model), TOKENS, lengths, END, 24)
    assert found.tolist() == [one_by_one(model, row, int(n), 24) for row, n in zip(TOKENS, lengths, strict=True)]
    assert len({int((row[n:] == END).sum()) for row, n in zip(found, lengths.tolist(), strict=True)}) > 1
    with pytest.raises(ValueError, match="lengths"):
        greedy(edited(model), TOKENS, torch.full((6,), 25), END, 24)


def test_steps_are_runs_between_separators_before_the_end() -> None:
    tokens = torch.tensor([
        [9, 9, 7, 6, 4, 7, 4, 6, 5, 7],  # three steps, then the end
        [9, 9, 7, 6, 4, 7, 4, 6, 6, 6],  # broken off in the third
        [9, 9, 5, 6, 4, 7, 4, 6, 6, 6],  # nothing
        [9, 4, 4, 4, 4, 7, 4, 4, 5, 6],  # one, among empty ones
    ])  # fmt: skip
    assert steps(tokens, torch.full((4,), 2), SEPARATOR, END).tolist() == [3, 3, 0, 1]


@pytest.mark.parametrize("other", [False, True])
def test_a_swap_reads_whole_texts_and_single_tokens_alike(other: bool) -> None:
    reader = swapped(random_model(0), random_model(1), "blocks.1.hook_attn_out", other=other)
    caches: dict = {}
    parts = [reader(TOKENS[:, :4], caches), *(reader(TOKENS[:, i : i + 1], caches) for i in range(4, 12))]
    torch.testing.assert_close(torch.cat(parts, 1), reader(TOKENS[:, :12]), rtol=1e-4, atol=1e-4)


def test_a_swap_puts_the_donors_activation_in() -> None:
    receiver, donor, hook = random_model(0), random_model(1), "blocks.0.hook_resid_post"
    given = recorded(donor, TOKENS, [hook])[hook]
    wanted = edited(receiver, {hook: lambda _: given})(TOKENS)
    torch.testing.assert_close(swapped(receiver, donor, hook)(TOKENS), wanted)
    same = swapped(receiver, receiver, hook)(TOKENS)
    torch.testing.assert_close(same, edited(receiver)(TOKENS), rtol=1e-3, atol=1e-3)
    shifted = swapped(receiver, donor, hook, other=True)(TOKENS)
    rolled = edited(receiver, {hook: lambda _: given.roll(1, 0)})(TOKENS)
    torch.testing.assert_close(shifted, rolled)
    assert not torch.allclose(shifted, wanted, atol=0.1)


def test_a_head_taken_away_writes_nothing() -> None:
    model = random_model(0)
    both = {"blocks.1.attn.hook_z": lambda z: without_head(1)(without_head(0)(z))}
    seen = edited(model, both | {"blocks.1.hook_attn_out": lambda x: x.new_zeros(x.shape) if not x.any() else 1 / 0})
    assert seen(TOKENS).isfinite().all()
    with pytest.raises(ValueError, match="head is 2"):
        edited(model, {"blocks.1.attn.hook_z": without_head(2)})(TOKENS)
    with pytest.raises(ValueError, match="edits"):
        edited(model, {"blocks.9.attn.hook_z": without_head(0)})


def test_regulation_is_the_mean_probability_at_the_places_that_are_read() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, 1] = torch.tensor([9.0, 9.0, -99.0, -99.0])
    reads = torch.tensor([[True, True, False], [False, False, True]])
    found = regulation(logits, reads, torch.tensor([True, False, False, False]))
    torch.testing.assert_close(found, torch.tensor([(0.25 + 0.5) / 2, 0.25]))
    with pytest.raises(ValueError, match="reads"):
        regulation(logits, torch.zeros(2, 3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
