"""The experts' table: token log-probabilities and the losses of Mixture of Data Experts.

Notation: ``rates`` λ `[..., K]`; ``p`` `[T, K]` the probability that each of K experts gives to
the observed token t of a validation set; the loss of a mixture on that set, nats per token, is
``L(λ) = -mean_t log Σ_j λ_j p_j(x_t)`` (Belenki et al. 2025, arXiv 2502.15950, section 3). It is
exact at the corners and convex in λ; ``∂L/∂λ_j = -mean_t p_j(x_t) / Σ_k λ_k p_k(x_t)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optuna_mde.mde.logprobs import ExpertFileError, load_logprobs
from optuna_mde.mde.tokens import SMALLEST_RATIO, TokenTable, set_gradients, set_losses


class ExpertTable:
    """MDE losses, and their gradients, of any mixture.

    Args:
        domains: the K domains of the mixture, in the order of the rates.
        logprobs: domain to validation set to `[T]` log-probabilities. A domain may be missing, and
            a set may be missing from a domain: the loss on that set is then that of the mixture of
            the experts that do exist. Sets with fewer than two experts are left out.

    Raises:
        ExpertFileError: if two experts differ in the number of tokens of a set.

    Example:
        >>> import numpy as np
        >>> table = ExpertTable(["web", "code"], {
        ...     "web": {"books": np.log([0.5, 0.1])}, "code": {"books": np.log([0.1, 0.3])}})
        >>> float(table.losses(np.array([1.0, 0.0]))[0].round(4))  # the web expert's own loss
        1.4979
    """

    def __init__(
        self, domains: Sequence[str], logprobs: Mapping[str, Mapping[str, np.ndarray]]
    ) -> None:
        self.domains = tuple(domains)
        index = {domain: j for j, domain in enumerate(self.domains)}
        present = [d for d in self.domains if d in logprobs]
        tables: dict[str, TokenTable] = {}
        for name in dict.fromkeys(s for d in present for s in logprobs[d]):
            owners = [d for d in present if name in logprobs[d]]
            if len(owners) >= 2:
                columns = [np.asarray(logprobs[d][name], dtype=np.float32) for d in owners]
                tables[name] = _token_table(name, columns, owners, [index[d] for d in owners])
        self._tables = tables

    @property
    def sets(self) -> tuple[str, ...]:
        """The M validation sets that have an MDE loss."""
        return tuple(self._tables)

    @property
    def tables(self) -> tuple[TokenTable, ...]:
        """The tokens of each set."""
        return tuple(self._tables.values())

    def losses(self, rates: np.ndarray) -> np.ndarray:
        """MDE losses over every token.

        Args:
            rates: `batch_shape x K` mixtures.

        Returns:
            `batch_shape x M`, nats per token, float64.
        """
        flat, shape = self._flat(rates)
        columns = [set_losses(table, flat) for table in self.tables]
        stacked = np.stack(columns, axis=-1) if columns else np.zeros((len(flat), 0))
        return stacked.reshape(*shape, len(columns))

    def gradients(self, rates: np.ndarray) -> np.ndarray:
        """Gradients of `losses` with respect to the rates.

        Args:
            rates: `batch_shape x K` mixtures.

        Returns:
            `batch_shape x M x K`, nats per token and unit of rate. Where an expert is missing, the
            gradient is that of the loss at the renormalised rates of the others.
        """
        flat, shape = self._flat(rates)
        per_set = [set_gradients(table, flat) for table in self.tables]
        stacked = np.stack(per_set, axis=1) if per_set else np.zeros((len(flat), 0, flat.shape[1]))
        return stacked.reshape(*shape, *stacked.shape[1:])

    def _flat(self, rates: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        rates = np.asarray(rates, dtype=np.float64)
        assert rates.shape[-1] == len(self.domains), (rates.shape, self.domains)
        return rates.reshape(-1, rates.shape[-1]), rates.shape[:-1]


def load_table(
    domains: Sequence[str], files: Mapping[str, str]
) -> tuple[ExpertTable, dict[str, str]]:
    """Read the experts' files into one table.

    Args:
        domains: the K domains of the mixture.
        files: domain to the URL of its expert's log-probabilities.

    Returns:
        The table of all files that belong together, and the reason for each one left out. A file
        belongs if its sets have the tokens and fingerprints that most files have.
    """
    loaded: dict[str, dict[str, np.ndarray]] = {}
    marks: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for domain, url in files.items():
        try:
            loaded[domain], metadata = load_logprobs(url)
        except ExpertFileError as error:
            refused[domain] = str(error)
            continue
        marks[domain] = {
            name: (len(values), metadata.get("tokenizer"), _fingerprints(metadata).get(name))
            for name, values in loaded[domain].items()
        }
    for name in dict.fromkeys(s for sets in loaded.values() for s in sets):
        owners = [d for d in loaded if name in loaded[d]]
        votes = [marks[d][name] for d in owners]
        usual = max(votes, key=votes.count)
        for domain in owners:
            if marks[domain][name] != usual:
                del loaded[domain][name]
                refused[domain] = (
                    f"{files[domain]}: set {name!r} has other tokens, tokenizer or fingerprint "
                    "than the other experts' files"
                )
    return ExpertTable(domains, loaded), refused


def _token_table(
    name: str, columns: list[np.ndarray], owners: list[str], experts: list[int]
) -> TokenTable:
    lengths = {d: len(c) for d, c in zip(owners, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ExpertFileError(f"set {name!r} has different numbers of tokens: {lengths}")
    ratios = np.stack(columns, axis=1)
    top = np.maximum(ratios.max(axis=1), np.float32(np.log(SMALLEST_RATIO)))
    ratios -= top[:, None]
    np.exp(ratios, out=ratios)
    return TokenTable(ratios, float(top.mean(dtype=np.float64)), np.array(experts))


def _fingerprints(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        sets = json.loads(metadata.get("sets", "{}"))
    except (TypeError, ValueError):
        return {}
    return sets if isinstance(sets, dict) else {}
