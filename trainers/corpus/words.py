"""Byte-level BPE by units of text that are encoded once and looked up afterwards.

Text repeats its words: one in ten or fewer is new to a process that has seen some megabytes. A
*unit* is a stretch of text at whose ends every pre-tokenizer of the known kinds begins a new word
whatever stands beside it, so that the tokens of a text are those of its units, one after the
other. `python -m benchmarks.preparation` measures what it gains; the test compares with
`tokenizers`, token by token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Classes are cut at ASCII signs alone: of others, versions of Unicode think differently.
_WORD, _SIGN, _SIGN_BUT_APOSTROPHE = "[A-Za-z0-9]", r"!-/:-@\[-`{-~", r"!-&(-/:-@\[-`{-~"
_WORD_ENDS = rf"(?![^\s{_SIGN}])"  # behind letters and digits: white space or a sign, or the end
# GPT-2: white space up to its last sign (`\s+(?!\S)|\s+`); then words and runs of signs, each with
# the white sign before it. An apostrophe may begin a word (`'s`), and stays with what follows it.
GPT2_UNITS = re.compile(
    rf"\s+(?=\s\S)|\s?{_WORD}+{_WORD_ENDS}|\s?[{_SIGN_BUT_APOSTROPHE}]+(?![^\sA-Za-z0-9])|\s?\S+|\s+"
)
# tiktoken's: a sign may begin the word behind it, and line ends may belong to the signs before
# them. A word ends before a sign, and a space before a sign that is no space begins one.
SPACE_UNITS = re.compile(rf" ?[{_SIGN}]*{_WORD}+{_WORD_ENDS}|(?: (?=\S))?(?:[^ ]| (?!\S))+")
# Signs that Python takes for white space and the pre-tokenizers' Unicode classes do not.
DOUBTFUL = re.compile(r"[\x1c-\x1f]")
SPLITS = frozenset(
    {
        # tiktoken's cl100k, as Llama 3 has it, and its variants of one and of many digits
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
)
MAX_UNITS = 500_000  # some 100 MB; then the cache begins anew
MAX_CHARACTERS = 50_000_000  # of all units together


def units_of(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """How text is cut into units for a tokenizer; None: no known kind that allows it.

    Known are byte-level BPE with GPT-2's or tiktoken's pattern, without a normaliser, and without
    added tokens that are ordinary text.
    """
    held: dict[str, Any] = json.loads(tokenizer.to_str())
    model = held["model"]
    plain = (
        held.get("normalizer") is None
        and model.get("type") == "BPE"
        and not model.get("dropout")
        and all(token["special"] for token in held.get("added_tokens", ()))
    )
    if not plain:
        return None
    before = held.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    last = parts[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if len(parts) == 1 and last.get("use_regex", True):
        return GPT2_UNITS
    if len(parts) == 2 and not last.get("use_regex", True) and _is_known_split(parts[0]):
        return SPACE_UNITS
    return None


def _is_known_split(part: dict[str, Any]) -> bool:
    return (
        part.get("type") == "Split"
        and part.get("behavior") == "Isolated"
        and not part.get("invert")
        and part.get("pattern", {}).get("Regex") in SPLITS
    )


class WordEncoder:
    """Encodes texts by their units.

    Args:
        tokenizer: encodes units that are new.
        units: finds the units of a text (`units_of`).
        dtype: of the token ids.
    """

    def __init__(self, tokenizer: Tokenizer, units: re.Pattern[str], dtype: np.dtype[Any]) -> None:
        self._tokenizer, self._units, self._dtype = tokenizer, units, dtype
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._known: dict[str, int] = {}
        self._characters = 0
        self._ids = np.zeros(2**20, self._dtype)
        self._starts = np.zeros(2**18, np.int64)  # of the tokens of each unit; one more at the end

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of all texts, one after the other, `[T]`, and how many each has, `[n]`."""
        if len(self._known) > MAX_UNITS or self._characters > MAX_CHARACTERS:
            self._begin_anew()
        units: list[str] = []
        counts = []
        for text in texts:
            found = [text] if DOUBTFUL.search(text) else self._units.findall(text)
            units += found
            counts.append(len(found))
        known = self._known
        self._learn([unit for unit in dict.fromkeys(units) if unit not in known])
        at = np.fromiter(map(known.__getitem__, units), np.int64, len(units))
        starts = self._starts[at]
        lengths = self._starts[at + 1] - starts
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        places = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
        text_ends = np.concatenate([[0], ends])[np.cumsum(counts)] if counts else np.zeros(0)
        return self._ids[places], np.diff(text_ends, prepend=0).astype(np.int64)

    def _learn(self, new: list[str]) -> None:
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        for unit, encoding in zip(new, encodings, strict=True):
            ids = encoding.ids
            number = len(self._known)
            start = int(self._starts[number])
            while start + len(ids) > len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            if number + 2 > len(self._starts):
                self._starts = np.concatenate([self._starts, np.zeros_like(self._starts)])
            self._ids[start : start + len(ids)] = ids
            self._starts[number + 1] = start + len(ids)
            self._known[unit] = number
            self._characters += len(unit)
