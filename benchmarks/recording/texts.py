"""Text of installed packages as JSON lines, one `{"name": …, "text": …}` a document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from optuna_mde_trainers.corpus.builtin.environment import MIN_FILE_BYTES, Document, cut
from optuna_mde_trainers.spec import write_atomic

from benchmarks.recording.config import TextConfig

TEXTS_FOLDER = "texts"


def write_texts(texts: Mapping[str, TextConfig], folder: Path) -> None:
    """Writes `texts/<name>.jsonl` for every text that is not there yet.

    What is there stays, so that the text of a recording is that of its first start even when
    packages have changed since.
    """
    (folder / TEXTS_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, config in texts.items():
        path = folder / TEXTS_FOLDER / f"{name}.jsonl"
        if not path.exists():
            lines = [
                json.dumps({"name": document.name, "text": document.text}, ensure_ascii=False)
                for document in documents(config)
            ]
            write_atomic(path, "".join(line + "\n" for line in lines))


def documents(config: TextConfig) -> Iterator[Document]:
    """Documents of a text, in the order of its sources, until there is enough."""
    size = 0
    for source in config.sources:
        for tree in source.trees:
            for file in tree.files():
                for part, text in enumerate(pieces(file.read(), config.document_bytes)):
                    if size >= config.max_bytes:
                        return
                    size += len(text.encode())
                    yield Document(f"{file.name}#{part}" if part else file.name, text)


def pieces(text: str, limit: int) -> Iterator[str]:
    """A text in parts of at most `limit` bytes that end with lines; crumbs are left out."""
    while len(text.encode()) >= MIN_FILE_BYTES:
        head = cut(text, limit)
        if len(head.encode()) >= MIN_FILE_BYTES:
            yield head
        text = text[len(head) :]
