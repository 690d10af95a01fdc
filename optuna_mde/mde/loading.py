"""The experts' files, read into one table and its coreset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.coreset_files import load_coreset
from optuna_mde.mde.experts import ExpertTable
from optuna_mde.mde.logprobs import modified

COARSE = 4e-3  # error of a coreset that is told, nats per token: twice what is aimed at

_logger = logging.getLogger("optuna_mde")


@dataclass(frozen=True)
class Experts:
    """What the experts' files say of a mixture's losses."""

    table: ExpertTable
    """MDE losses over every token, which stay in the files."""
    coreset: Coreset
    """The same, cheap and with gradients."""
    refused: dict[str, str]
    """{domain: reason} of the files that were left out."""
    files: tuple[tuple[str, str, float], ...]
    """Domain, URL and time of writing of every file: what all of this was made from."""


class Reader:
    """Reads experts' files once, and again when one of them has changed. Copies start empty."""

    def __init__(self) -> None:
        self._last: tuple[tuple[str, ...], Experts] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(Reader())

    def read(self, domains: Sequence[str], files: Mapping[str, str]) -> Experts:
        """What the files say; arguments as of `load_experts`."""
        last = self._last
        if last is None or last[0] != tuple(domains) or last[1].files != _stamped(files):
            last = self._last = tuple(domains), load_experts(domains, files)
        return last[1]


def load_experts(domains: Sequence[str], files: Mapping[str, str]) -> Experts:
    """Read the experts' files; those that are left out, and coarse coresets, are logged.

    Args:
        domains: the K domains of the mixture.
        files: domain to the URL of its expert's log-probabilities.
    """
    stamped = _stamped(files)  # before they are read: what is written meanwhile is read again
    table, coreset, refused = load_coreset(domains, files)
    for reason in refused.values():
        _logger.warning("An expert is left out of the MDE losses. %s", reason)
    for name, error in zip(coreset.sets, coreset.rms_error.tolist(), strict=True):
        if error > COARSE:
            _logger.warning(
                "MDE losses of set %r are those of weighted tokens, which are %.4f nats (root "
                "mean square) from those of all tokens.",
                *(name, error),
            )
    return Experts(table, coreset, refused, stamped)


def _stamped(files: Mapping[str, str]) -> tuple[tuple[str, str, float], ...]:
    return tuple((domain, url, modified(url)) for domain, url in sorted(files.items()))
