"""Domains that were split, merged or revised: where the rates of old runs lie by now.

A study keeps a list of revisions, each ``{old domain: {new domain: share}}``: a rate λ of the old
domain counts as ``share · λ`` of each new one. They compose in their order, by names alone: a name
that was revised never comes back, so that a run says by its names which domains it trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna_mde.scalars import real
from optuna_mde.simplex.projection import MixtureError

Revision = dict[str, dict[str, float]]
Origins = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
"""Old domain, and its shares of the present ones; all revisions composed."""

ROUNDED = 1e-6  # how far shares may sum from 1: three of .333 are no whole


def checked(changes: Any) -> Revision:
    """A revision as it was handed in, a new domain's name standing for all of the old one.

    Raises:
        MixtureError: if it is none.
    """
    if not isinstance(changes, Mapping) or not changes:
        raise MixtureError(
            f"changes must be {{old domain: {{new domain: share}}}}, or a new domain in place of "
            f"the shares, got {changes!r}"
        )
    revision = {}
    for old, given in changes.items():
        shares = {given: 1.0} if isinstance(given, str) else given
        if not isinstance(old, str) or not old or not isinstance(shares, Mapping) or not shares:
            raise MixtureError(
                f"{old!r} must become {{new domain: share}} or a new domain, got {given!r}"
            )
        revision[old] = {
            str(new): real(f"the share of {new!r} in {old!r}", share, MixtureError)
            for new, share in shares.items()
        }
        parts = list(revision[old].values())
        if not all(math.isfinite(share) and share > 0.0 for share in parts):
            raise MixtureError(f"shares of {old!r} must be above 0, got {dict(shares)}")
        total = math.fsum(parts)
        if abs(total - 1.0) > ROUNDED:
            raise MixtureError(
                f"shares of {old!r} must sum to 1, and sum to {total:g}; divide each by {total:g}"
            )
        revision[old] = {new: share / total for new, share in revision[old].items()}
    return revision


def added(known: Sequence[Revision], revision: Revision) -> list[Revision]:
    """The study's revisions with a further one; as they are where it holds nothing new.

    Raises:
        MixtureError: if it brings back a name that was revised, or revises one twice.
    """
    before = {old: shares for each in known for old, shares in each.items()}
    new = {old: shares for old, shares in revision.items() if before.get(old) != shares}
    for old in new:
        if old in before:
            raise MixtureError(
                f"{old!r} was revised before, into {', '.join(before[old])}; revise those"
            )
    retired = {*before, *new}
    for old, shares in new.items():
        again = [name for name in shares if name in retired]
        if again:
            raise MixtureError(
                f"{old!r} cannot become {again[0]!r}: runs know that name with another meaning; "
                f"take a name of its own, such as {again[0] + '-2'!r}"
            )
    return [*known, new] if new else list(known)


def composed(revisions: Iterable[Revision]) -> Origins:
    """Where the rate of every domain that was revised lies by now."""
    shares: Revision = {}
    for revision in revisions:
        for old in shares:
            shares[old] = placed(shares[old], revision)
        shares |= {old: dict(parts) for old, parts in revision.items()}
    return tuple((old, tuple(parts.items())) for old, parts in shares.items())


def placed(
    mixture: Mapping[str, float], shares: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """{domain: rate} with the rates of old domains given to those that they became."""
    rates: dict[str, float] = {}
    for domain, rate in mixture.items():
        for new, share in shares.get(domain, {domain: 1.0}).items():
            rates[new] = rates.get(new, 0.0) + share * rate
    return rates


def read(value: Any) -> list[Revision]:
    """The revisions of a study's attribute; those of another shape are left out."""
    revisions: list[Revision] = []
    for item in value if isinstance(value, list) else ():
        try:
            revisions = added(revisions, checked(item))
        except MixtureError:
            continue
    return revisions
