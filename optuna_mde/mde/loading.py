"""The experts' files, read into one table and its coreset, without those that are wrong.

An expert's loss is its MDE loss at its corner of the simplex, so that a file can be compared with
what its own trial reported. Files that were passed in come from elsewhere, of another model or
length perhaps, and are taken as they are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.coreset_files import load_coreset
from optuna_mde.mde.experts import ExpertTable
from optuna_mde.mde.logprobs import is_readable, version
from optuna_mde.mde.urls import is_local

COARSE = 4e-3  # error of a coreset that is told, nats per token: twice what is aimed at

# How far a file may be from the loss that its trial reported: rounded losses, means of batches of
# unequal size and bfloat16 stay within 1 %, and the mean over a thousand tokens of a set (sd 2.5
# nats a token) within 3 % of that over all. Logarithms to base 2 and 10 are off by 44 and 57 %.
SHARE, NATS = 0.05, 0.01

_UNITS = {"base 10": math.log(10.0), "base 2": math.log(2.0)}
_AT_ONCE = 8  # remote files that are asked at the same time whether they have changed

_logger = logging.getLogger("optuna_mde")


@dataclass(frozen=True)
class Source:
    """A log-probability file, and what is known of its expert."""

    url: str
    losses: tuple[tuple[str, float], ...] = ()
    """(set, nats per token) that the expert's own trial reported."""
    more: tuple[str, ...] = ()
    """Files of the same expert on sets that the first lacks."""

    @property
    def urls(self) -> tuple[str, ...]:
        """All of its files."""
        return (self.url, *self.more)


@dataclass(frozen=True)
class Experts:
    """What the experts' files say of a mixture's losses."""

    table: ExpertTable
    """MDE losses over every token, which stay in the files."""
    coreset: Coreset
    """The same, cheap and with gradients."""
    refused: dict[str, str]
    """{domain: reason} of the files, or sets of them, that were left out."""
    unread: tuple[str, ...]
    """URLs that could not be read, for whatever reason; they may be later."""
    files: tuple[object, ...]
    """Domains, files and their versions: what all of this was made from."""


class Reader:
    """Reads experts' files once, and again when one of them has changed. Copies start empty."""

    def __init__(self) -> None:
        self.last: Experts | None = None
        """What was read last."""
        self._versions: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(Reader())

    def read(self, domains: Sequence[str], files: Mapping[str, Sequence[Source]]) -> Experts:
        """What the files say; arguments as of `load_experts`."""
        sources = tuple((domain, tuple(files[domain])) for domain in domains if domain in files)
        urls = [url for _, own in sources for source in own for url in source.urls]
        # before they are read: what is written meanwhile is read again; and a file that cannot be
        # asked right now has not changed
        self._versions |= {url: v for url, v in _versions(urls).items() if v is not None}
        made_from = (tuple(domains), sources, tuple(self._versions.get(url) for url in urls))
        last = self.last
        if last is None or last.files != made_from or any(map(is_readable, last.unread)):
            last = self.last = load_experts(domains, files, made_from)
        return last


def load_experts(
    domains: Sequence[str],
    files: Mapping[str, Sequence[Source]],
    made_from: tuple[object, ...] = (),
) -> Experts:
    """Read the experts' files; those that are left out, and coarse coresets, are logged.

    Args:
        domains: the K domains of the mixture.
        files: domain to the files of its expert; where the first is refused, the next serves.
        made_from: kept beside the result.
    """
    left = {domain: list(own) for domain, own in files.items()}
    doubtful: dict[str, set[str]] = {}  # domain -> sets of its file that are not believed
    refused: dict[str, str] = {}
    unread: set[str] = set()
    while True:
        chosen = {domain: own[0] for domain, own in left.items() if own}
        urls = {domain: source.urls for domain, source in chosen.items()}
        table, coreset, faults = load_coreset(domains, urls, doubtful)
        refused |= faults
        unread |= {url for domain in faults for url in urls[domain] if not is_readable(url)}
        again = False
        for domain, compared in _compared(table, coreset, chosen).items():
            wrong = {name: pair for name, pair in compared.items() if _contradicts(*pair)}
            useless = domain in faults and domain not in table.used
            if wrong:
                refused[domain] = _reason(chosen[domain].url, wrong)
            if useless or (wrong and len(wrong) == len(compared)):
                del left[domain][0]
                doubtful.pop(domain, None)
                again |= bool(wrong or left[domain])
            elif wrong:
                doubtful.setdefault(domain, set()).update(wrong)
                again = True
        if not again:
            break
    for reason in refused.values():
        _logger.warning("An expert is left out of the MDE losses. %s", reason)
    for name, error in zip(coreset.sets, coreset.rms_error.tolist(), strict=True):
        if error > COARSE:
            _logger.warning(
                "MDE losses of set %r are those of weighted tokens, which are %.4f nats (root "
                "mean square) from those of all tokens.",
                *(name, error),
            )
    return Experts(table, coreset, refused, tuple(sorted(unread)), made_from)


def _compared(
    table: ExpertTable, coreset: Coreset, chosen: Mapping[str, Source]
) -> dict[str, dict[str, tuple[float, float]]]:
    """{domain: {set: (loss by the file, loss that was reported)}}, where both are known."""
    with torch.no_grad():
        corners = coreset.losses(torch.eye(len(table.domains), dtype=torch.float64)).numpy()
    compared: dict[str, dict[str, tuple[float, float]]] = {}
    for domain, source in chosen.items():
        j, reported = table.domains.index(domain), dict(source.losses)
        compared[domain] = {
            name: (float(corners[j, m]), reported[name])
            for m, (name, tokens) in enumerate(zip(table.sets, table.tables, strict=True))
            if j in tokens.experts and math.isfinite(reported.get(name, math.nan))
        }
    return compared


def _contradicts(by_file: float, reported: float) -> bool:
    return not abs(by_file - reported) <= SHARE * abs(reported) + NATS


def _reason(url: str, wrong: Mapping[str, tuple[float, float]]) -> str:
    parts = "; ".join(
        f"{name!r}: {by_file:.4g} by the file, {reported:.4g} reported"
        for name, (by_file, reported) in wrong.items()
    )
    ratios = np.array([reported / max(by_file, 1e-9) for by_file, reported in wrong.values()])
    unit = next((u for u, r in _UNITS.items() if np.abs(ratios / r - 1).max() <= SHARE), None)
    hint = f", as logarithms to {unit} would give" if unit else ""
    return f"{url} contradicts the losses that its own trial reported ({parts}){hint}"


def _versions(urls: Sequence[str]) -> dict[str, str | None]:
    if all(map(is_local, urls)):
        return {url: version(url) for url in urls}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(urls, pool.map(version, urls), strict=True))
