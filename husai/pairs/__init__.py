"""Analyses of matched pairs: language models that differ in one thing, and what their SAEs make of it."""
