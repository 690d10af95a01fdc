"""What is wrong with the sources of a corpus, as their first rows show it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from optuna_mde_trainers.corpus import tokenizer
from optuna_mde_trainers.corpus.config import CorpusConfig
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.chunks import chunks
from optuna_mde_trainers.corpus.reading.rows import rows
from optuna_mde_trainers.corpus.reading.streams import ARCHIVES, SUFFIXES
from optuna_mde_trainers.corpus.scanning import check_ids, group_of, placed
from optuna_mde_trainers.corpus.sources import DomainSource

NEVER_EMPTY = (".parquet", ".pq", ".arrow", ".npy", *SUFFIXES, *ARCHIVES)


def problems(config: CorpusConfig) -> list[str]:
    """What `prepare` would refuse, as far as the first megabytes of every source show it.

    Reads a few megabytes of a source, and asks the hub for the files of its datasets.

    Args:
        config: the corpus.

    Returns:
        One sentence for each source, and for the tokenizer, with the field that it is about.
    """
    found = []
    end_of_text = vocab_size = None
    try:
        if config.tokenizer.type != "bpe":
            made = tokenizer.build(config.tokenizer, [])
            end_of_text = made.token_to_id(config.tokenizer.end_of_text)
            vocab_size = tokenizer.vocabulary_size(made)
    except CorpusError as error:
        found.append(str(error))
    for place, source in _sources(config):
        try:
            check(place, source, end_of_text=end_of_text, vocab_size=vocab_size)
            if source.validation_split is not None:
                split = source.validation_split
                held = source.model_copy(update={"split": split, "validation_split": None})
                check(f"{place}.validation_split", held, end_of_text=end_of_text)
        except CorpusError as error:
            found.append(str(error))
    return found


def check(
    place: str,
    source: DomainSource,
    *,
    end_of_text: int | None = None,
    vocab_size: int | None = None,
) -> None:
    """Opens the first rows of a source.

    Args:
        place: its place in the definition, for messages: `domains.web`.
        source: the source.
        end_of_text: token that ends documents, for sources of token ids.
        vocab_size: of the tokenizer that the ids must belong to; None: it is not known.

    Raises:
        CorpusError: a file, split or column is missing, is empty, or holds something else.
    """
    if source.environment is not None:
        return
    group = group_of(place, source, source.split, end_of_text=end_of_text, tokenizer="")
    scan = group.scan
    for file in scan.files:
        if "://" not in file and file.endswith(NEVER_EMPTY) and os.path.getsize(file) == 0:
            raise CorpusError(
                f"{place}.data_files: {file} is empty (0 bytes), which no whole "
                f"{os.path.splitext(file)[1]} file is; copy it again or remove it"
            )
    try:
        for chunk in chunks(scan):
            found = rows(scan, chunk)
            if found.lacking:
                raise CorpusError(found.lacking)
            if scan.is_tokens and vocab_size is not None:
                for ids in found.values:
                    check_ids(chunk.file, ids, vocab_size)
            return
    except CorpusError as error:
        raise CorpusError(placed(place, str(error))) from error
    raise CorpusError(f"{place}: {source.label} holds no row; give files with text")


def _sources(config: CorpusConfig) -> Iterator[tuple[str, DomainSource]]:
    for name, source in config.domains.items():
        yield f"domains.{name}", source
    for name, source in config.validation.items():
        yield f"validation.{name}", source
