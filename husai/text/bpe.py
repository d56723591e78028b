"""Byte-pair encoding with special tokens, through the `tokenizers` library."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from husai.config import require
from husai.text.grammar import SPECIAL


class Tokenizer(NamedTuple):
    """A trained encoding; special tokens are single ids, the first of them 0."""

    inner: tokenizers.Tokenizer

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.inner.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self.inner.decode(list(ids), skip_special_tokens=False)

    def id(self, token: str) -> int:
        """Return the id of one token; ValueError when the vocabulary has no such token."""
        found = self.inner.token_to_id(token)
        require(found is not None, "token", token, "a token of the vocabulary")
        return int(found or 0)

    def save(self, path: Path) -> None:
        """Write the `tokenizer.json` of the library."""
        path.write_text(self.inner.to_str(pretty=True) + "\n")


def train(documents: Iterable[str], vocabulary: int, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """Return a byte-level BPE of the documents with at most `vocabulary` ids, the special tokens first.

    Its alphabet is the documents' own; other characters become `<|unk|>`. Source: Sennrich et al. (2016).
    ValueError: a vocabulary without room for special tokens and alphabet.
    """
    documents = list(documents)
    alphabet = {
        symbol for text in documents for word, _ in pre_tokenizers.ByteLevel(False).pre_tokenize_str(text)
        for symbol in word
    }  # fmt: skip
    least = len(special) + len(alphabet)
    require(vocabulary >= least, "vocabulary", vocabulary, f"at least {least}: special tokens and alphabet")
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<|unk|>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(special))
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(special), show_progress=False)
    inner.train_from_iterator(documents, trainer)
    return Tokenizer(inner)


def load(path: Path) -> Tokenizer:
    """Return a tokenizer from its `tokenizer.json`; ValueError for a missing or foreign file."""
    require(path.is_file(), "path", path.name, "a tokenizer.json")
    return Tokenizer(tokenizers.Tokenizer.from_str(path.read_text()))
