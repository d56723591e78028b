"""Texts: corpora that an installation already holds, made-up task texts, tokenizers."""
