"""The experts' table: token log-probabilities and the losses of Mixture of Data Experts.

Notation: ``rates`` λ `[..., K]`; ``p`` `[T, K]` the probability that each of K experts gives to
the observed token t of a validation set; the loss of a mixture on that set, nats per token, is
``L(λ) = -mean_t log Σ_j λ_j p_j(x_t)`` (Belenki et al. 2025, arXiv 2502.15950, section 3). It is
exact at the corners and convex in λ; ``∂L/∂λ_j = -mean_t p_j(x_t) / Σ_k λ_k p_k(x_t)``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from optuna_mde.mde.logprobs import ExpertFileError, LogprobFile, UnusableFileError
from optuna_mde.mde.token_files import FileTokens
from optuna_mde.mde.tokens import Tokens, TokenTable, divided, set_gradients, set_losses

# Of tokens, experts and mixtures: so many take 2 seconds (1.6 ns a token and mixture of 8
# experts), which an answer may wait for. Reading a table takes as long as losses of so many.
MOST_PRODUCTS, _READING = 8e9, 100

Read = TypeVar("Read")

Files = Mapping[str, str | Sequence[str]]  # domain to the URL(s) of its expert's log-probabilities

_logger = logging.getLogger("optuna_mde")


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
        tables: dict[str, Tokens] = {}
        for name in dict.fromkeys(s for d in present for s in logprobs[d]):
            owners = [d for d in present if name in logprobs[d]]
            if len(owners) >= 2:
                columns = [np.asarray(logprobs[d][name], dtype=np.float32) for d in owners]
                tables[name] = _token_table(name, columns, owners, [index[d] for d in owners])
        self._tables: Mapping[str, Tokens] = tables

    @classmethod
    def of(cls, domains: Sequence[str], tables: Mapping[str, Tokens]) -> ExpertTable:
        """A table of sets whose tokens are given as such."""
        table = cls(domains, {})
        table._tables = dict(tables)
        return table

    @property
    def sets(self) -> tuple[str, ...]:
        """The M validation sets that have an MDE loss."""
        return tuple(self._tables)

    @property
    def used(self) -> set[str]:
        """Domains whose experts have a say in some set."""
        return {self.domains[j] for tokens in self.tables for j in tokens.experts.tolist()}

    @property
    def tables(self) -> tuple[Tokens, ...]:
        """The tokens of each set."""
        return tuple(self._tables.values())

    def of_first(self, n: int) -> ExpertTable:
        """The table of the first n domains, its tokens being in memory."""
        if n == len(self.domains):
            return self
        tables = {}
        for name, tokens in self._tables.items():
            assert isinstance(tokens, TokenTable)
            kept = tokens.experts < n
            ratios = np.ascontiguousarray(tokens.ratios[:, kept])
            tables[name] = replace(tokens, ratios=ratios, experts=tokens.experts[kept])
        return ExpertTable.of(
            self.domains[:n], {s: t for s, t in tables.items() if len(t.experts)}
        )

    def in_memory(self) -> ExpertTable:
        """The same table, its tokens read once.

        Raises:
            UnusableFileError: if a file cannot be read, or holds no log-probabilities.
        """
        read = {
            name: tokens.in_memory() if isinstance(tokens, FileTokens) else tokens
            for name, tokens in self._tables.items()
        }
        return ExpertTable.of(self.domains, read)

    def every_token(self, mixtures: int) -> ExpertTable | None:
        """The table in memory; None where losses of so many mixtures would take too long, or a
        file cannot be read any more."""
        entries = sum(tokens.n_tokens * len(tokens.experts) for tokens in self.tables)
        if entries * (_READING + mixtures) > MOST_PRODUCTS:
            return None
        try:
            return self.in_memory()
        except UnusableFileError as error:
            _logger.warning("MDE losses are those of weighted tokens. %s", error)
            return None

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
    domains: Sequence[str],
    files: Files,
    without: Mapping[str, Collection[str]] | None = None,
) -> tuple[ExpertTable, dict[str, str]]:
    """`open_table`, with all tokens read into memory."""
    _, table, refused = read_table(ExpertTable.in_memory, domains, files, without)
    return table, refused


def read_table(
    read: Callable[[ExpertTable], Read],
    domains: Sequence[str],
    files: Files,
    without: Mapping[str, Collection[str]] | None = None,
) -> tuple[ExpertTable, Read, dict[str, str]]:
    """`open_table` and what is read from it, without files whose tokens turn out to be none.

    Args:
        read: what reads the tokens of a table.
        domains, files, without: as in `open_table`.
    """
    refused: dict[str, str] = {}
    usable = {domain: _urls(own) for domain, own in files.items()}
    while True:
        table, others = open_table(domains, usable, without)
        try:
            return table, read(table), refused | others
        except UnusableFileError as error:
            spoilt = {d: str(error) for d, own in usable.items() if error.url in own}
            if not spoilt:
                raise  # of no file that was asked for: another try would end the same
            refused |= spoilt
            usable |= {d: tuple(url for url in usable[d] if url != error.url) for d in spoilt}


def open_table(
    domains: Sequence[str],
    files: Files,
    without: Mapping[str, Collection[str]] | None = None,
) -> tuple[ExpertTable, dict[str, str]]:
    """The experts' files as one table, whose tokens stay where they are.

    Args:
        domains: the K domains of the mixture.
        files: domain to the URL of its expert's log-probabilities; or to several, of which the
            first that has a set counts.
        without: domain to the sets of its file that are not to be used.

    Returns:
        The table of all files that belong together, and the reason for each one left out. A file
        belongs if its sets have the tokens and fingerprints that most files have. Reading a token
        raises `UnusableFileError` where a file holds something else than log-probabilities.
    """
    found: dict[str, dict[str, LogprobFile]] = {}  # domain -> set -> file
    refused: dict[str, str] = {}
    for domain, own in files.items():
        for url in _urls(own):
            try:
                file = LogprobFile.open(url)
            except UnusableFileError as error:
                refused[domain] = str(error)
            else:
                for name in file.sets:
                    found.setdefault(domain, {}).setdefault(name, file)
    tables: dict[str, Tokens] = {}
    for name in dict.fromkeys(s for d in domains for s in found.get(d, ())):
        having = [d for d in found if name in found[d]]
        kept = [d for d in having if name not in (without or {}).get(d, ())]
        marks = {d: _mark(found[d][name], name) for d in kept}
        usual = max(marks.values(), key=list(marks.values()).count, default=None)
        for domain in [d for d, mark in marks.items() if mark != usual]:
            refused[domain] = (
                f"{found[domain][name].url}: set {name!r} has other tokens, tokenizer or "
                "fingerprint than the other experts' files"
            )
        owners = [d for d in domains if marks.get(d) == usual]
        if len(owners) >= 2:
            experts = np.array([tuple(domains).index(d) for d in owners])
            tables[name] = FileTokens(name, tuple(found[d][name] for d in owners), experts)
    return ExpertTable.of(domains, tables), refused


def _urls(own: str | Sequence[str]) -> Sequence[str]:
    return (own,) if isinstance(own, str) else own


def _mark(file: LogprobFile, name: str) -> tuple[object, ...]:
    """What files that belong together share of a set."""
    try:
        sets = json.loads(file.metadata.get("sets", "{}"))
    except (TypeError, ValueError):
        sets = {}
    fingerprint = sets.get(name) if isinstance(sets, dict) else None
    return file.sets[name], file.metadata.get("tokenizer"), fingerprint


def _token_table(
    name: str, columns: list[np.ndarray], owners: list[str], experts: list[int]
) -> TokenTable:
    lengths = {d: len(c) for d, c in zip(owners, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ExpertFileError(f"set {name!r} has different numbers of tokens: {lengths}")
    ratios = np.stack(columns)
    top = divided(ratios)
    return TokenTable(
        np.ascontiguousarray(ratios.T), float(top.mean(dtype=np.float64)), np.array(experts)
    )
