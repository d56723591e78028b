"""The GPT: transformers' Llama as the oracle, hooks that see and replace everything, a cache that changes nothing."""

import pytest
import torch

from husai.language import gpt, matched
from husai.language.gpt import GPTConfig, GPTs

CONFIG = GPTConfig(vocabulary=512, n_layers=2, n_heads=4, d_model=32, d_mlp=48, context=24)


def models(seeds=(0, 1, 2)) -> GPTs:
    parameters = gpt.initialise(CONFIG, seeds)
    for name, value in parameters.items():  # norms that are not all ones
        if value.ndim == 2:
            value += 0.3 * torch.randn(value.shape[1:], generator=torch.Generator().manual_seed(len(name)))
    return GPTs(CONFIG, "adhd", tuple(seeds), parameters, matched.tokenizer())


TOKENS = torch.randint(0, 391, (5, 12), generator=torch.Generator().manual_seed(1))


def test_llama_of_transformers_gives_the_same_logits_from_our_folder(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = models()
    matched.save(ours, tmp_path)
    for seed, logits in zip(ours.seeds, ours.logits(TOKENS), strict=True):
        theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / f"seed_{seed}").eval()
        with torch.no_grad():
            torch.testing.assert_close(theirs(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)


def test_a_folder_gives_the_same_models(tmp_path) -> None:
    ours = models()
    matched.save(ours, tmp_path)
    again = matched.load(tmp_path)
    assert (again.config, again.style, again.seeds) == (ours.config, ours.style, ours.seeds)
    assert all(torch.equal(again.parameters[name], value) for name, value in ours.parameters.items())
    assert again.tokenizer.encode("find the sink") == ours.tokenizer.encode("find the sink")


def test_hooks_see_every_activation_in_its_shape_and_reading_changes_nothing() -> None:
    ours, seen = models(), {}
    logits = ours.logits(TOKENS, lambda name, value: seen.__setitem__(name, value))
    torch.testing.assert_close(logits, ours.logits(TOKENS), rtol=1e-4, atol=1e-5)
    assert tuple(seen) == CONFIG.hooks
    assert seen["blocks.1.attn.hook_pattern"].shape == (3, 5, 4, 12, 12)
    assert seen["blocks.1.attn.hook_z"].shape == (3, 5, 12, 4, 8)
    assert seen["blocks.1.mlp.hook_post"].shape == (3, 5, 12, 48)
    assert seen["hook_embed"].shape == seen["blocks.0.hook_attn_out"].shape == (3, 5, 12, 32)
    pattern = seen["blocks.0.attn.hook_pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 5, 4, 12))
    assert not pattern.triu(1).any()
    torch.testing.assert_close(seen["blocks.0.hook_resid_post"], seen["blocks.1.hook_resid_pre"])
    lens = gpt.unembed(ours.parameters, seen["blocks.1.hook_resid_post"])
    torch.testing.assert_close(lens, logits)


def test_a_replacement_at_any_hook_changes_the_logits_from_its_position_on() -> None:
    ours = models()
    plain = ours.logits(TOKENS)
    for name in CONFIG.hooks:
        at = 3 if "hook_pattern" in name else 2  # where positions are counted

        def change(hook: str, value: torch.Tensor, name=name, at=at) -> torch.Tensor | None:
            if hook != name:
                return None
            value = value.clone()
            value.select(at, 6).mul_(1.7 if "resid_post" not in hook else -1.7)
            return value

        moved = (ours.logits(TOKENS, change) - plain).abs().amax((0, 1, 3)) > 1e-4
        assert not moved[:6].any() and moved[6], name


def test_the_cache_gives_the_logits_of_the_whole_sequence() -> None:
    ours, cache = models(), {}
    parts = [TOKENS[:, :7], TOKENS[:, 7:8], TOKENS[:, 8:]]
    found = [gpt.forward(ours.parameters, p.expand(3, *p.shape), CONFIG, None, cache) for p in parts]
    torch.testing.assert_close(torch.cat(found, 2), ours.logits(TOKENS), rtol=1e-4, atol=1e-5)


def test_a_seed_is_the_same_whichever_others_stand_beside_it() -> None:
    torch.testing.assert_close(models().select(1).logits(TOKENS), models((1,)).logits(TOKENS))


def test_generation_is_seeded_greedy_at_zero_and_obeys_hooks() -> None:
    ours, prompts = models(), ["<|task|>Clean the desk<|steps|>", "<|task|>Move the car with care<|steps|>"]
    first = ours.generate(prompts, 3)
    assert first == ours.generate(prompts, 3) != ours.generate(prompts, 4)
    assert all(text.startswith(prompt) for row in first for text, prompt in zip(row, prompts, strict=True))
    twins = ours._replace(parameters={n: v[:1].expand(3, *v.shape[1:]) for n, v in ours.parameters.items()})
    assert len({row[0] for row in twins.generate(prompts)}) == 3, "each model seed draws for itself"
    assert ours.select(1).generate(prompts, 3) == [first[1]]
    greedy = ours.generate(prompts[:1], temperature=0.0)[1][0]
    ids = ours.tokenizer.encode(prompts[0])
    for _ in range(CONFIG.context - len(ids)):
        ids.append(int(ours.logits(torch.tensor([ids]))[1, 0, -1].argmax()))
    text, end, _ = ours.tokenizer.decode([token for token in ids if token]).partition("<|end|>")
    assert greedy == text + end
    towards = ours.parameters["embed.W_E"][:, ours.tokenizer.id("<|end|>")]

    def stop(name: str, value: torch.Tensor) -> torch.Tensor | None:
        direction = 100 * towards / ours.parameters["ln_final.w"].clamp_min(0.1)
        return direction[:, None, None].expand_as(value) if name == "blocks.1.hook_resid_post" else None

    assert [row[0] for row in ours.generate(prompts, temperature=0.0, hooks=stop)] == [prompts[0] + "<|end|>"] * 3


@pytest.mark.parametrize(
    ("call", "words"),
    [(lambda: GPTConfig(d_model=30, n_heads=8), "n_heads is 8"), (lambda: GPTConfig(n_layers=0), "n_layers is 0"),
     (lambda: models().logits(TOKENS.repeat(1, 3)), "36 positions long"),
     (lambda: models().logits(TOKENS + 200), "tokens is"),
     (lambda: matched.load(__import__("pathlib").Path(__file__).parent), "place is 'tests'")],
)  # fmt: skip
def test_refusals(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
