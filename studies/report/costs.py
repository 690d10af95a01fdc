"""The ledger of a study: what its experts, its search and its confirmation have cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from optuna_mde_studies.wording import amount, hours

from optuna_mde.answers.tables import Table

if TYPE_CHECKING:
    from optuna_mde_studies.report.overview import Overview, Run
    from optuna_mde_studies.runner.confirm import Confirmation


Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Cost:
    """What runs of one kind have cost; None where nothing says it."""

    what: str
    runs: int
    tokens: int | None
    """Training tokens."""
    flops: float | None
    """Floating-point operations of the training steps, by the trainer's formula."""
    seconds: float | None
    """Seconds of the training steps times devices; of the whole run where only that is known."""


def ledger(overview: Overview, confirmation: Confirmation | None = None) -> list[Cost]:
    """Costs of the kinds of runs that there are, and of all together; running ones left out,
    and those that were taken over."""
    costs = [_sum(name, runs) for name, runs in _kinds(overview) if runs]
    if confirmation is not None:
        costs.append(
            Cost(
                "confirmation",
                len(confirmation.mixtures) * len(confirmation.seeds),
                confirmation.tokens,
                confirmation.flops,
                confirmation.device_seconds,
            )
        )
    if len(costs) > 1:
        costs.append(
            Cost(
                "all",
                sum(cost.runs for cost in costs),
                total(cost.tokens for cost in costs),
                total(cost.flops for cost in costs),
                total(cost.seconds for cost in costs),
            )
        )
    return costs


def table(overview: Overview, confirmation: Confirmation | None = None) -> Table:
    """The ledger in words; without FLOP where no run says them, as of a trainer of the user's."""
    costs = ledger(overview, confirmation)
    knows_flops = any(cost.flops is not None for cost in costs)
    head = ("", "runs", "training tokens", *(("FLOP",) if knows_flops else ()), "device time")
    return Table(head, tuple(tuple(_cells(cost, knows_flops)) for cost in costs))


def _cells(cost: Cost, knows_flops: bool) -> Iterator[str]:
    yield cost.what
    yield str(cost.runs)
    yield "" if cost.tokens is None else amount(cost.tokens)
    if knows_flops:
        yield "" if cost.flops is None else f"{cost.flops:.2e}"
    yield "" if cost.seconds is None else hours(cost.seconds)


def _kinds(overview: Overview) -> Iterator[tuple[str, Sequence[Run]]]:
    finished = [run for run in overview.finished if not run.taken_over]
    yield "experts", [run for run in finished if run.phase == "expert" or run.is_shortened]
    yield "search", [run for run in finished if run.phase != "expert" and not run.is_shortened]
    # What was interrupted is no waste: its run went on, and is counted where it ended.
    kept = ("running", "interrupted")
    own = [run for run in overview.runs if not run.taken_over and run.state not in kept]
    lost = [run for run in own if run not in finished]
    yield "wasted (failed or left out)", lost


def _sum(what: str, runs: Sequence[Run]) -> Cost:
    return Cost(
        what,
        len(runs),
        total(run.tokens for run in runs),
        total(run.flops for run in runs),
        total(run.seconds if run.device_seconds is None else run.device_seconds for run in runs),
    )


def total(values: Iterable[Number | None]) -> Number | None:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known, start=type(known[0])(0)) if known else None
