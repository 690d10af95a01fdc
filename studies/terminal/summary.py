"""What a study found, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from optuna_mde_studies.report import (
    costs,
    epochs,
    evaluations,
    headlines,
    statements,
    tasks,
)
from optuna_mde_studies.report.judgement import judge
from optuna_mde_studies.runner.confirm import Confirmation, verdict
from optuna_mde_studies.runner.plan import left
from optuna_mde_studies.runner.trials import best_trials, on_lost_experts, values
from optuna_mde_studies.wording import amount, count, listed, named, share_of_a_run
from optuna_mde_studies.wording import rates as one_line
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from optuna_mde.answers.front import marked
from optuna_mde.answers.tables import Table as Cells
from optuna_mde.answers.tables import by_goal, rates
from optuna_mde.objective import Objective

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.report.judgement import Judgement
    from optuna_mde_studies.report.overview import Overview
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_studies.runner.plan import Done, Plan
    from optuna_mde_studies.runner.survey import Found

    from optuna_mde.answers.answer import Recommendation

LABEL_WIDTH = 14
"""Columns that a row's name keeps, however many figures stand beside it."""
MAX_BEST = 5
"""Trials of a Pareto front that are listed."""
ON_FRESH_SEEDS = (
    "Intervals are for the training seed that these runs share; fresh seeds stand below."
)


def headline(
    found: Overview, recommendation: Recommendation, confirmation: Confirmation | None
) -> Iterator[RenderableType]:
    """What to train, what that gains and makes worse, and which bounds hold it."""
    confirmed = judge(found, recommendation, confirmation)
    rates, _ = statements.recommended(found, recommendation)
    said = headlines.headline(found, recommendation, rates, confirmed)
    yield Text(said.text, style="bold")
    yield Text("\n".join(statements.findings(found, recommendation, confirmed)))


def asked(recommendation: Recommendation) -> Iterator[RenderableType]:
    """The objective that a question named in place of the study's."""
    goals = tuple((goal, tuple(sets.items())) for goal, sets in recommendation.weights.items())
    yield Text(statements.objective_in_words(Objective(goals)))


def outcome(
    recommendation: Recommendation, objective: Objective, judgement: Judgement | None = None
) -> Iterator[RenderableType]:
    """The recommended mixture beside the ones that everybody asks for, and how far to trust it."""
    for goal, cells in by_goal(recommendation.rows, recommendation.goals).items():
        yield _shown(cells, f"{goal}, predicted" if goal else "nats per token")
    told = judgement is not None and judgement.is_current
    yield Text(ON_FRESH_SEEDS if told else recommendation.on_seeds)
    yield _shown(rates(recommendation.rows), "% of the tokens")
    if recommendation.pareto:
        yield _front(recommendation, objective)
    yield Text(f"Trust in these predictions: {recommendation.trust.statement}")
    for note in recommendation.notes:
        yield Text(note)


def beside(
    found: Overview,
    folder: StudyFolder,
    recommendation: Recommendation,
    confirmation: Confirmation | None,
) -> Iterator[RenderableType]:
    """What the losses do not say: epochs of the target run, end tasks, evaluations, costs."""
    tables = (
        epochs.table(found, recommendation),
        tasks.table(found, recommendation, confirmation),
        evaluations.table(found, folder, confirmation),
        costs.table(found, confirmation),
    )
    for table in tables:
        if table is not None:
            yield _shown(table, table.head[0] or "cost")
    if warning := epochs.warning(found, recommendation):
        yield Text(warning)


def planned(config: StudyConfig, found: Plan, had: Done) -> str:
    """What a study will run, in a line."""
    budget, steps = config.experts.budget, config.training.max_steps
    first = _first(config, had)
    shortened = f" (experts {share_of_a_run(budget)})" if budget < 1 else ""
    size = f", with {amount(found.size.parameters)} parameters" if found.size else ""
    return (
        f"{len(config.domains)} domains, {config.search.n_trials} trials ({first}) of {steps} "
        f"steps{shortened} or {amount(found.run_tokens)} tokens{size}"
    )


def _first(config: StudyConfig, had: Done) -> str:
    experts, mixtures = left(config, had)
    if had.trials and not experts + mixtures:
        return "all finished"
    parts = [count(n, w) for n, w in ((experts, "expert"), (mixtures, "mixture")) if n]
    if had.trials:
        return f"{had.trials} finished; left: {', then '.join(parts)}"
    if config.warm_start:
        return f"after the runs of {listed(config.warm_start)}: {', then '.join(parts)}"
    return (
        f"{experts} experts, then {mixtures} mixtures, the natural and the uniform one among them"
    )


def plan(found: Plan, rate: float | None) -> Iterator[RenderableType]:
    """Runs, tokens, operations and, where the rate of a run is known, time."""
    yield _shown(found.table(rate), "at most")
    side = f"{count(found.workers, 'run')} at a time"
    if rate is None:
        how = "--measure trains a few steps here to find out, " if found.size else ""
        yield Text(f"{side}. How long that takes: {how}--tokens-per-second says it.")
    else:
        yield Text(f"{side}, {amount(round(rate))} tokens a second each.")


def confirmed(confirmation: Confirmation, objective: Objective) -> Iterator[RenderableType]:
    """Differences with fresh seeds, and what they amount to."""
    seeds = len(confirmation.seeds)
    values = confirmation.values(objective)
    for goal, differences in confirmation.differences(objective).items():
        label = f"{seeds} fresh seeds" + (f", {goal}" if len(values) > 1 else "")
        table = _table(label, "mean loss", "recommended minus it", "95 % interval")
        by_name = {d.other: d for d in differences}
        for name, losses in values[goal].items():
            mean = f"{sum(losses) / len(losses):.4f}"
            d = by_name.get(name)
            if d is None:
                table.add_row(Text(name), mean, "", "")
            else:
                table.add_row(Text(name), mean, f"{d.mean:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]")
        yield table
        found = confirmation.fresh_runs(objective)[goal]
        yield Text(
            f"A run of the recommended mixture with another seed is expected between "
            f"{found.low:.4f} and {found.high:.4f} (90 %)."
        )
        yield Text(verdict(differences, seeds), style="bold")


def status(study: optuna.Study, counts: Mapping[str, int], n_trials: int | None) -> Iterator[str]:
    """How far a study is, in lines; nobody knows how many trials a program of its own will run."""
    finished = counts.get("complete", 0) + counts.get("pruned", 0)
    others = [
        f", {number} {state}"
        for state, number in counts.items()
        if state not in ("complete", "pruned")
    ]
    wanted = finished if n_trials is None else n_trials
    shown = "" if n_trials is None else f"{finished} of "
    yield f"{study.study_name}: {shown}{count(wanted, 'trial')} finished{''.join(others)}"
    names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
    reached = values(study)
    for trial in best_trials(study)[:MAX_BEST] if reached else ():
        yield f"best: {named(reached[trial.number], names)} by trial {trial.number}"
    if lost := on_lost_experts(study):
        yield lost


def studies(found: Sequence[Found]) -> Table:
    """A line a study: trials, state, folder."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("study", "trials", "state", "folder"):
        table.add_column(Text(column), overflow="fold")
    for one in found:
        trials = f"{one.finished}" if one.wanted is None else f"{one.finished} of {one.wanted}"
        table.add_row(*map(Text, (one.name, trials, one.state, one.place)))
    return table


def _shown(cells: Cells, title: str) -> Table:
    table = _table(title, *cells.head[1:])
    for name, *figures in cells.lines:
        table.add_row(Text(name), *map(Text, figures))
    return table


def _front(recommendation: Recommendation, objective: Objective) -> Table:
    """Mixtures of which none is predicted to be better in every goal."""
    table = _table("no goal better without another worse", *objective.names)
    for row, chosen in marked(recommendation.pareto, recommendation.rows[0]):
        name = one_line(row.mixture) + (" (recommended)" if chosen else "")
        table.add_row(Text(name), *(f"{goal.mean:.4f}" for goal in row.goals))
    return table


def _table(label: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(Text(label), min_width=LABEL_WIDTH, overflow="fold")
    for column in columns:
        table.add_column(Text(column), justify="right", overflow="fold")
    return table
