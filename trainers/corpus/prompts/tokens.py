"""Examples to tokens on disk: what a model is given, and which tokens of it are scored.

A row is one choice of one example, its right choice among them: end of text, prompt, choice. The
choice's tokens are those that hold a character of it, so that a tokenizer may join its first one
with the prompt's end, as it does in training text. Of sequences longer than a block the beginning
is left out, as lm-evaluation-harness does.

    input_ids       up to block_size + 1 tokens
    example         place of the example
    is_right        whether this is its right choice
    target_tokens   tokens at the end of the row that are scored
    target_bytes    UTF-8 bytes of the choice
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from optuna_mde_trainers.corpus.documents import CorpusError, digest, num_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from datasets import Dataset
    from optuna_mde_trainers.corpus.prompts.examples import Example
    from tokenizers import Tokenizer

EXAMPLES_AT_ONCE = 1_000


@dataclass(frozen=True)
class PromptRows:
    """An end-task set in tokens."""

    table: Dataset
    """The columns above, in the order of the examples."""
    tokens: int
    """Target tokens of the right choices: what the loss is the mean of."""
    bytes: int
    """UTF-8 bytes of the right choices."""
    examples: int
    cut: int
    """Rows whose prompt has lost its beginning."""
    fingerprint: str
    """Hash of the rows."""


def encode(
    field: str,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    end_of_text: int,
    block_size: int,
) -> PromptRows:
    """The rows of a set.

    Args:
        field: the set's place in the definition, for messages.
        examples: what it holds.
        tokenizer: of the runs that it is for.
        end_of_text: the token that opens every row.
        block_size: longest input of a model.

    Raises:
        CorpusError: a choice is longer than a block, or has no token.
    """
    from datasets import Dataset, Features, Value
    from datasets import List as ListOf

    tokenizer.encode_special_tokens = True  # a text that speaks of "<|endoftext|>" does not end
    tokenizer.no_truncation()
    tokenizer.no_padding()
    columns: dict[str, list[object]] = {name: [] for name in _TYPES}
    cut = 0
    for start in range(0, len(examples), EXAMPLES_AT_ONCE):
        rows = [
            (place, choice)
            for place in range(start, min(start + EXAMPLES_AT_ONCE, len(examples)))
            for choice in range(len(examples[place].choices))
        ]
        texts = [examples[p].prompt + examples[p].choices[c] for p, c in rows]
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        for (place, choice), encoding in zip(rows, encodings, strict=True):
            example = examples[place]
            beginning = len(example.prompt)
            scored = sum(end > beginning for _, end in encoding.offsets)
            if not 0 < scored <= block_size:
                raise CorpusError(
                    f"{field}: {example.choices[choice]!r:.60} of example {place} has {scored} "
                    f"tokens, and a model reads block_size {block_size}: raise block_size, or "
                    "leave the example out"
                )
            ids = [end_of_text, *encoding.ids]
            cut += len(ids) > block_size + 1
            columns["input_ids"].append(ids[-block_size - 1 :])
            columns["example"].append(place)
            columns["is_right"].append(choice == example.answer)
            columns["target_tokens"].append(scored)
            columns["target_bytes"].append(num_bytes(example.choices[choice]))
    features = Features(
        {
            name: ListOf(Value(dtype)) if name == "input_ids" else Value(dtype)
            for name, dtype in _TYPES.items()
        }
    )
    right = np.array(columns["is_right"], bool)
    return PromptRows(
        table=Dataset.from_dict(columns, features=features),
        tokens=int(np.array(columns["target_tokens"])[right].sum()),
        bytes=int(np.array(columns["target_bytes"])[right].sum()),
        examples=len(examples),
        cut=cut,
        fingerprint=_fingerprint(columns),
    )


def write(rows: PromptRows, folder: Path) -> None:
    """Keeps a set in a folder, as `datasets.load_from_disk` reads it."""
    from optuna_mde_trainers.corpus.blocks import quiet_datasets

    with quiet_datasets():
        rows.table.save_to_disk(str(folder))


_TYPES = {
    "input_ids": "uint32",
    "example": "int32",
    "is_right": "bool",
    "target_tokens": "int32",
    "target_bytes": "int32",
}


def _fingerprint(columns: dict[str, list[object]]) -> str:
    flat = np.concatenate([np.array(ids, np.uint32) for ids in columns["input_ids"]])
    lengths = [len(ids) for ids in columns["input_ids"]]  # type: ignore[arg-type]
    others = [columns[name] for name in ("example", "is_right", "target_tokens")]
    return digest(
        "prompts", flat.tobytes(), *(np.array(c, np.int32).tobytes() for c in [lengths, *others])
    )
