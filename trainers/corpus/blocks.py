"""Fixed blocks of tokens on disk, and the corpus folder that holds them.

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
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from optuna_mde_trainers.corpus.documents import CorpusError, digest

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from torch import Tensor

FORMAT = 2
CORPUS_FILE = "corpus.json"
TOKENIZER_FILE = "tokenizer.json"
TRAIN, VALIDATION, TASKS = "train", "validation", "tasks"
LONGEST_NAME = 240  # characters of a folder: file systems take 255 bytes
OLD_FILE = re.compile(r"([\d,]+ bytes), changed .*")
OLD_PACKAGE = re.compile(r"[^,]+, [\d,]+ files, [0-9a-f]{8}")


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
    source_bytes: int | None = None
    """UTF-8 bytes of the whole source, without copies and held-out documents."""
    source_tokens: int | None = None
    """Tokens of the same text: counted where all of it was kept, else as many as its bytes give
    at the rate of what was kept. None: not known (corpora of 0.1.0)."""


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
    """The definition it was built from, by dotted field."""
    held: dict[str, str] = field(default_factory=dict)
    """What its sources held: file or package -> size or version, and hash of the content."""
    end_of_text: int | None = None
    """The token between documents. None: release 0.1.0, which did not write it down."""
    revised_from: list[str] = field(default_factory=list)
    """Fingerprints that it had with other domains, the first one first (`revising.revise`)."""

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
        except (ValueError, RecursionError) as error:
            raise _damaged(folder / CORPUS_FILE, error) from error
        except OSError as error:
            raise CorpusError(f"{folder / CORPUS_FILE} cannot be read ({error})") from error
        version = content.pop("format", None) if isinstance(content, dict) else None
        if version not in (1, FORMAT):
            raise CorpusError(
                f"{folder / CORPUS_FILE} was written by another version, or is damaged; delete "
                f"{folder} to rebuild it"
            )
        try:
            if version == 1:
                _split_description(content)
            return _checked({**content, "folder": folder})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _damaged(folder / CORPUS_FILE, error) from error

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

        path = self.folder / TOKENIZER_FILE
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # it raises nothing more special
            raise _damaged(path, error) from error

    def _blocks(self, split: str, name: str, known: dict[str, Any]) -> Dataset:
        if name not in known:
            raise CorpusError(
                f"{self.folder} has no {split} blocks of {name!r}; it has {', '.join(known)}"
            )
        from datasets import load_from_disk

        path = set_folder(self.folder, split, name)
        try:
            return load_from_disk(str(path)).with_format("torch")
        except Exception as error:  # of datasets, of pyarrow, of the file system
            raise _damaged(path, error) from error


def _checked(content: dict[str, Any]) -> Corpus:
    """A corpus of another hand's JSON: every field has its type, and numbers are numbers."""
    from pydantic import TypeAdapter, ValidationError

    try:
        corpus = TypeAdapter(Corpus).validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    for name in (*corpus.domains, *corpus.sets):
        if name in ("", ".", ".."):
            raise ValueError(f"{name!r} is no name")
    for domain in corpus.domains.values():
        if not 0 <= domain.natural <= 1:  # nor NaN
            raise ValueError(f"domains.{domain.name}.natural: {domain.natural} is no share")
    return corpus


def _damaged(path: Path, error: Exception) -> CorpusError:
    reason = " ".join(str(error).split())[:200]
    return CorpusError(f"{path} is damaged ({reason}); delete it, and prepare the corpus again")


def _split_description(content: dict[str, Any]) -> None:
    """Corpora of 0.1.0 tell definition and sources apart by their wording alone."""
    content["held"] = {}
    content["made_from"].pop("packing", None)
    for key, value in list(content["made_from"].items()):
        file = OLD_FILE.fullmatch(value)
        if file is not None or OLD_PACKAGE.fullmatch(value):
            content["held"][key] = value if file is None else file[1]
            del content["made_from"][key]


def write_corpus(corpus: Corpus) -> None:
    """Writes what finishes a corpus folder; a reader finds all of it or what was there before."""
    content = {**asdict(corpus), "format": FORMAT}
    del content["folder"]
    text = json.dumps(content, indent=2, ensure_ascii=False)
    partial = corpus.folder / f".{CORPUS_FILE}.{os.getpid()}"
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, corpus.folder / CORPUS_FILE)


# -- document boundaries ---------------------------------------------------------------------


def documents_of(ids: Tensor, end_of_text: int) -> Tensor:
    """Number of the document that each token of a block belongs to.

    An end of text begins the document behind it: it is what the first token is predicted from.
    Attention that stays within documents joins positions of equal numbers.

    Args:
        ids: `[..., t]` token ids.
        end_of_text: `Corpus.end_of_text`.

    Returns:
        `[..., t]` int64, from 0 or 1 upwards in every row.
    """
    return (ids == end_of_text).cumsum(-1)


# -- names of folders, and `datasets` ----------------------------------------------------------


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
    """Folder of a domain's or a set's blocks: its URL-quoted name, shortened where it is long."""
    quoted = quote(name, safe="")
    if len(quoted) > LONGEST_NAME:
        quoted = f"{quoted[:200]}-{digest(name, size=8)}"
    return folder / split / quoted
