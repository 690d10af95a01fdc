"""Files of token ids, `.npy` and `.bin`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.scans import CHUNK_BYTES, Chunk, Scan, short


def id_chunks(scan: Scan, file: str, before: int) -> Iterator[Chunk]:
    """Chunks that end where a document does."""
    ids = _mapped(scan, file)
    size = ids.dtype.itemsize
    start, window = 0, CHUNK_BYTES // size
    while start < len(ids):
        end = min(start + window, len(ids))
        while end < len(ids):
            ends = np.flatnonzero(ids[start:end] == scan.end_of_text)
            if len(ends):
                end = start + int(ends[-1]) + 1
                break
            end = min(end + window, len(ids))
        yield Chunk(file, start, np.array(ids[start:end]), position=before + end * size)
        start = end


def _mapped(scan: Scan, file: str) -> np.ndarray:
    try:
        if scan.format == "npy":
            ids = np.load(file, mmap_mode="r", allow_pickle=False)
        else:
            assert scan.dtype is not None
            ids = np.memmap(file, dtype=scan.dtype, mode="r")
    except (ValueError, OSError, EOFError) as error:
        what = "a whole .npy file" if scan.format == "npy" else f"a file of {scan.dtype} ids"
        raise CorpusError(f"{file} is not {what} ({short(error)}); copy it again") from error
    if ids.dtype.kind not in "ui":
        raise CorpusError(f"{file} holds {ids.dtype}, not token ids; save whole numbers")
    if ids.ndim != 1:
        raise CorpusError(
            f"{file} holds an array of shape {ids.shape}, not one row of ids; save the tokens of "
            "all documents one after the other"
        )
    return ids
