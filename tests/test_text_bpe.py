"""The tokenizer: texts come back, special tokens are single ids."""

from pathlib import Path

import pytest

from husai.text import bpe, grammar

DOCUMENTS = [grammar.render(task, style, i) for i, task in enumerate(grammar.tasks(300, 0)) for style in grammar.STYLES]
TOKENIZER = bpe.train(DOCUMENTS, 300)


def test_texts_come_back_and_special_tokens_are_single_ids() -> None:
    assert all(TOKENIZER.decode(TOKENIZER.encode(text)) == text for text in DOCUMENTS)
    assert [TOKENIZER.id(token) for token in grammar.SPECIAL] == list(range(len(grammar.SPECIAL)))
    assert TOKENIZER.encode("<|task|>")[0] == TOKENIZER.id("<|task|>")
    assert TOKENIZER.vocabulary <= 300


def test_frequent_words_become_one_token_and_a_larger_vocabulary_shortens_texts() -> None:
    assert len(TOKENIZER.encode("find")) == 1
    smaller = bpe.train(DOCUMENTS, 80)
    assert sum(len(smaller.encode(t)) for t in DOCUMENTS) > sum(len(TOKENIZER.encode(t)) for t in DOCUMENTS)


def test_an_unknown_character_is_unk() -> None:
    assert TOKENIZER.id("<|unk|>") in TOKENIZER.encode("wipe %")


def test_a_file_gives_the_same_tokenizer(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    again = bpe.load(tmp_path / "tokenizer.json")
    assert [again.encode(text) for text in DOCUMENTS[:20]] == [TOKENIZER.encode(text) for text in DOCUMENTS[:20]]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocabulary is 10"):
        bpe.train(DOCUMENTS, 10)
    with pytest.raises(ValueError, match="token is 'nonsense'"):
        TOKENIZER.id("nonsense")
    with pytest.raises(ValueError, match="path is 'none.json'"):
        bpe.load(tmp_path / "none.json")
