"""Text to tokens to fixed blocks on disk, and the corpus folder that holds them.

    T    tokens of a stream: end-of-text, document, end-of-text, document, ...
    L    `block_size`: tokens that a block trains or scores
    n    blocks: floor((T - 1) / L); block i is stream[i L : i L + L + 1]

Neighbouring blocks share one token, the last target of one and the first input of the next, so
that every token of the stream is predicted exactly once.

A corpus folder:

    corpus.json          everything that `Corpus` knows; written last
    tokenizer.json
    train/<domain>/      `datasets` folders of one column `input_ids`, [n, L + 1] uint16 or uint32
    validation/<set>/
    tasks/<set>/         end-task sets: prompts and targets (`prompts.tokens`)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
from optuna_mde_trainers.corpus.documents import CorpusError, batches, digest, num_bytes

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer

FORMAT = 1
CORPUS_FILE = "corpus.json"
TOKENIZER_FILE = "tokenizer.json"
TRAIN, VALIDATION, TASKS = "train", "validation", "tasks"
LARGEST_UINT16 = 2**16 - 1


@dataclass(frozen=True)
class DomainInfo:
    """Training text of one domain."""

    name: str
    tokens: int
    """Tokens that one epoch trains: blocks x block_size."""
    bytes: int
    """UTF-8 bytes of its text."""
    blocks: int
    natural: float
    """Share of the de-duplicated text that was found, before it was cut to the corpus's size."""
    fingerprint: str


@dataclass(frozen=True)
class SetInfo:
    """One validation set."""

    name: str
    domain: str | None
    """Domain whose held-out text it is; None for an unseen set."""
    tokens: int
    """Scored tokens: blocks x block_size."""
    bytes: int
    """UTF-8 bytes of the scored tokens; bits per byte = loss x tokens / (bytes x ln 2)."""
    blocks: int
    """Of a prompt/target set: examples."""
    fingerprint: str
    kind: Literal["text", "prompts"] = "text"
    """Blocks of text, or prompts and targets, of which `tokens` and `bytes` count the targets."""


@dataclass(frozen=True)
class Corpus:
    """A finished corpus folder."""

    folder: Path
    fingerprint: str
    """Of what is trained on: tokenizer, block size and blocks of all domains. Sets have their
    own, so that a corpus with one more validation set trains the same runs."""
    tokenizer_fingerprint: str
    vocab_size: int
    block_size: int
    domains: dict[str, DomainInfo]
    sets: dict[str, SetInfo]
    dropped: dict[str, str]
    """Domain or validation set -> why it was left out."""
    source: str
    """Fingerprint of the configuration and of what its sources held when it was built."""
    made_from: dict[str, str]
    """What `source` is the fingerprint of, in words."""
    end_of_text: int | None = None
    """The token between documents. None: release 0.1.0, which did not write it down."""

    @classmethod
    def load(cls, folder: Path | str) -> Corpus:
        """Reads what `optuna_mde_trainers.corpus.corpora.prepare` has finished.

        Raises:
            CorpusError: there is no finished corpus, or one of another version.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / CORPUS_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CorpusError(
                f"{folder} holds no finished corpus (no {CORPUS_FILE}); prepare it first"
            ) from error
        except json.JSONDecodeError as error:
            raise CorpusError(f"{folder / CORPUS_FILE} is damaged ({error}); delete it") from error
        if content.pop("format", None) != FORMAT:
            raise CorpusError(f"{folder} was written by another version; delete it to rebuild it")
        domains = {name: DomainInfo(**info) for name, info in content.pop("domains").items()}
        sets = {name: SetInfo(**info) for name, info in content.pop("sets").items()}
        return cls(folder=folder, domains=domains, sets=sets, **content)

    @property
    def natural(self) -> dict[str, float]:
        """Share of each domain in the text that was found; sums to 1."""
        return {name: info.natural for name, info in self.domains.items()}

    def train_blocks(self, domain: str) -> Dataset:
        """Blocks of a domain; a list of rows gives `input_ids`, int64 [rows, block_size + 1].

        Inputs are `[:, :-1]`, targets `[:, 1:]`. Read lists of rows: single rows are ten times
        slower.
        """
        return self._blocks(TRAIN, domain, self.domains)

    def validation_blocks(self, name: str) -> Dataset:
        """Blocks of a validation set, of the same shape, in the order of its tokens."""
        return self._blocks(VALIDATION, name, self.sets)

    def prompt_rows(self, name: str) -> Dataset:
        """Rows of a prompt/target set, as `prompts.tokens` describes them."""
        return self._blocks(TASKS, name, self.sets)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all blocks."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / TOKENIZER_FILE))

    def _blocks(self, split: str, name: str, known: dict[str, Any]) -> Dataset:
        if name not in known:
            raise CorpusError(
                f"{self.folder} has no {split} blocks of {name!r}; it has {', '.join(known)}"
            )
        from datasets import load_from_disk

        return load_from_disk(str(set_folder(self.folder, split, name))).with_format("torch")


# -- building ------------------------------------------------------------------------------


def encode_train(tokenizer: Tokenizer, texts: Iterable[str], end_of_text: int) -> np.ndarray:
    """Stream of all texts: `[T]` token ids, two or four bytes each, held in memory."""
    tokenizer.encode_special_tokens = True  # a text that speaks of "<|endoftext|>" does not end
    dtype = _dtype(tokenizer)
    parts = [np.array([end_of_text], dtype)]
    for batch in batches(texts):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            parts += [np.array(encoding.ids, dtype), parts[0]]
    return np.concatenate(parts)


def encode_validation(
    tokenizer: Tokenizer, texts: Iterable[str], end_of_text: int, num_tokens: int
) -> tuple[np.ndarray, int]:
    """The first `num_tokens` + 1 tokens of a stream, and the bytes of all but the first.

    Shorter when the texts hold less. Reads no more texts than it needs.
    """
    tokenizer.encode_special_tokens = True
    ids = [end_of_text]
    size = 0
    for batch in batches(texts, num_characters=4 * num_tokens):
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, encodings, strict=True):
            missing = num_tokens + 1 - len(ids)
            ids += encoding.ids[:missing]
            if len(encoding.ids) >= missing:
                last = encoding.offsets[missing - 1][1]  # characters up to the last token's end
                return np.array(ids, _dtype(tokenizer)), size + num_bytes(text[:last])
            ids.append(end_of_text)
            size += num_bytes(text)
            if len(ids) > num_tokens:
                return np.array(ids, _dtype(tokenizer)), size
    return np.array(ids, _dtype(tokenizer)), size


def _dtype(tokenizer: Tokenizer) -> type[np.unsignedinteger[Any]]:
    from optuna_mde_trainers.corpus.tokenizer import vocabulary_size

    return np.uint16 if vocabulary_size(tokenizer) - 1 <= LARGEST_UINT16 else np.uint32


def pack(stream: np.ndarray, block_size: int) -> np.ndarray:
    """Blocks of a stream: `[T]` -> `[n, block_size + 1]`; what fills no block is left out."""
    n = max(0, (len(stream) - 1) // block_size)
    inputs = stream[: n * block_size].reshape(n, block_size)
    last_targets = stream[block_size : n * block_size + 1 : block_size]
    return np.concatenate([inputs, last_targets[:n, None]], axis=1)


def blocks_fingerprint(blocks: np.ndarray) -> str:
    """Hash of blocks' shape, type and content."""
    return digest(str(blocks.shape), blocks.dtype.name, np.ascontiguousarray(blocks).tobytes())


def write_blocks(blocks: np.ndarray, folder: Path, split: str, name: str) -> None:
    """Blocks `[n, block_size + 1]` as a `datasets` folder of the corpus."""
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Features, List, Value
    from datasets.table import InMemoryTable

    width = blocks.shape[1]
    rows = pa.FixedSizeListArray.from_arrays(pa.array(blocks.reshape(-1)), width)
    features = Features({"input_ids": List(Value(blocks.dtype.name), length=width)})
    dataset = Dataset(
        InMemoryTable(pa.table({"input_ids": rows})),
        info=DatasetInfo(features=features),
        fingerprint=blocks_fingerprint(blocks),
    )
    with quiet_datasets():
        dataset.save_to_disk(str(set_folder(folder, split, name)))


def write_corpus(corpus: Corpus) -> None:
    """Writes what finishes a corpus folder."""
    content = {**asdict(corpus), "format": FORMAT}
    del content["folder"]
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (corpus.folder / CORPUS_FILE).write_text(text + "\n", encoding="utf-8")


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Without the progress bars of `datasets`, which break into a live display."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


def set_folder(folder: Path, split: str, name: str) -> Path:
    """Where a domain's blocks, or a set, lie in a corpus folder."""
    return folder / split / quote(name, safe="")
