"""Corpora, grammars and tokenizers: the text side of language-model studies."""
