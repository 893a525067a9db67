"""A GGUF file is parsed once while transformers loads it, instead of three times."""

import contextlib
import functools
from collections.abc import Iterator

import gguf

SLOW = ("GGUFReader", "get_tensor_name_map")
"""What transformers takes from the package gguf at each use: the parser, for configuration, tokenizer and
weights; the table of tensor names, for every module of the model."""


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Inside, the package gguf gives the same answer again where it is asked the same again.

    A small model loads in half the time. A transformers that takes these names otherwise loads as slowly as
    ever. One thread at a time.
    """
    before = {name: getattr(gguf, name) for name in SLOW if hasattr(gguf, name)}
    for name, called in before.items():
        setattr(gguf, name, functools.cache(called))
    try:
        yield
    finally:
        for name, called in before.items():
            setattr(gguf, name, called)
