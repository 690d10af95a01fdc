"""Mixtures, goals, figures and storages in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from optuna_mde.visualization.palette import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from optuna_mde.objective import Objective

NARROW = "\u202f"
"""Between a number and %: narrow, and no place for a line to break."""
NONE = 5e-5
"""Rates below this are 0 for a reader."""
MOST_NAMED = 5
"""Parts of a mixture that a sentence names."""
SHOWN_RATE = 0.005
"""Domains below this rate are left out of one-line mixtures."""


def goals(objective: Objective) -> str:
    """What is minimised, on one line: `0.33 docs + 0.67 prose`."""
    texts = []
    for name, weights in objective.goals:
        terms = " + ".join(f"{weight:.2f} {set_name}" for set_name, weight in weights)
        terms = terms or "the mean of all validation sets"
        texts.append(f"{name} = {terms}" if len(objective.goals) > 1 else terms)
    return "; ".join(texts)


def rates(mixture: Mapping[str, float]) -> str:
    """A mixture on one line, the largest rate first; shares too small to matter are left out."""
    shown = sorted(
        (item for item in mixture.items() if item[1] >= SHOWN_RATE), key=lambda i: -i[1]
    )
    return " ".join(f"{name} {rate:.2f}" for name, rate in shown)


def named(values: Sequence[float], names: Sequence[str]) -> str:
    """Objective values, each with its name where there are several: `code 3.2104, text 2.9713`."""
    if len(values) < 2:
        return "".join(f"{value:.4f}" for value in values)
    return ", ".join(f"{name} {value:.4f}" for name, value in zip(names, values, strict=True))


def copyable(mixture: Mapping[str, float], decimals: int = 4) -> dict[str, float]:
    """Rates as one copies them: few decimals, and still a sum of exactly 1."""
    units = {domain: round(rate * 10**decimals) for domain, rate in mixture.items()}
    largest = max(units, key=lambda domain: units[domain])
    units[largest] += 10**decimals - sum(units.values())
    return {domain: unit / 10**decimals for domain, unit in units.items()}


def in_words(mixture: Mapping[str, float]) -> str:
    """The largest parts: "58 % docs, 36 % prose and 6 % python"."""
    parts = sorted(mixture.items(), key=lambda item: -item[1])
    visible = [(domain, rate) for domain, rate in parts if rate >= 0.005]
    named = visible if len(visible) == MOST_NAMED + 1 else visible[:MOST_NAMED]
    words = [f"{100 * rate:.0f}{NARROW}% {shortened(domain)}" for domain, rate in named]
    rest = sum(1 for _, rate in parts if rate >= NONE) - len(named)
    return listed([*words, f"{count(rest, 'smaller part')}"] if rest else words)


def percent(rate: float) -> str:
    """A rate with one decimal; what rounds to nothing is 0."""
    return "0" if rate < NONE else f"{100 * rate:.1f}{NARROW}%"


def share_of_a_run(budget: float) -> str:
    """How long a shortened expert was trained."""
    return f"{100 * budget:.3g}{NARROW}% of a run"


def amount(number: int) -> str:
    """A count of tokens or weights in three digits."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{NARROW}{unit}"
    return str(number)


def hours(seconds: float) -> str:
    """A long time for people: `3.2 h`, `12 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{seconds / 3600:,.1f} h" if minutes < 6000 else f"{seconds / 3600:,.0f} h"


def sentence(text: str) -> str:
    """Begins with a capital, ends with a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def count(number: int, noun: str) -> str:
    """A number with its noun in the singular or the plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """Words with commas and a last "and"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def shown(text: str) -> str:
    """The URL of a storage, or what ends in one, without its password."""
    before, at, after = text.rpartition("@")
    scheme, _, user = before.partition("://")
    if at and ":" in user:
        text = f"{scheme}://{user.partition(':')[0]}:***@{after}"
    return re.sub(r"(?<=[?&])(password|passwd)=[^&]*", r"\1=***", text)
