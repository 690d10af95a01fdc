"""The report's parts, each from plain data to a piece of HTML."""

from __future__ import annotations

import platform
from html import escape
from importlib import metadata
from typing import TYPE_CHECKING, Any

import yaml
from optuna_mde_studies.report import costs as ledger
from optuna_mde_studies.report import epochs, pieces, tasks
from optuna_mde_studies.report.headlines import headline
from optuna_mde_studies.report.statements import (
    JUDGED,
    MDE,
    ROWS,
    findings,
    objective_in_words,
    recommended,
    seeds_in_words,
)
from optuna_mde_studies.runner.trials import no_expert
from optuna_mde_studies.wording import (
    NARROW,
    amount,
    count,
    in_words,
    percent,
    sentence,
    share_of_a_run,
)

from optuna_mde.answers import tables
from optuna_mde.answers.front import marked
from optuna_mde.visualization.palette import domain_colours, shortened, signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna_mde_studies.report.judgement import Judgement
    from optuna_mde_studies.report.overview import Overview, Run
    from optuna_mde_studies.runner.confirm import Confirmation, Difference
    from optuna_mde_trainers.corpus.blocks import Corpus

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.answers.rows import Row
    from optuna_mde.answers.trust import Trust

PACKAGES = (
    "optuna-mde",
    "optuna",
    "torch",
    "botorch",
    "gpytorch",
    "lightning",
    "datasets",
    "plotly",
)
PHASES = {"model": "proposal", "prior": "proposal (no fit)", "mde": "proposal (MDE alone)"}
"""What a reader calls the phases of the search whose own names do not say it."""


def header(overview: Overview) -> str:
    """Name of the study, and in one line what was searched."""
    what = [count(len(overview.finished), "finished run"), count(len(overview.domains), "domain")]
    if overview.sets:
        what.append(count(len(overview.sets), "validation set"))
    return (
        '<header><p class="kicker">Data mixture study</p>'
        f"<h1>{escape(overview.study)}</h1>"
        f"<p>{', '.join(what)}. {escape(objective_in_words(overview.goals))}</p></header>"
    )


def answer(
    overview: Overview, recommendation: Recommendation, judgement: Judgement | None = None
) -> str:
    """The recommended mixture: a sentence, a table and what to paste into a configuration."""
    rates, beside = recommended(overview, recommendation)
    head = headline(overview, recommendation, rates, judgement)
    leads = findings(overview, recommendation, judgement)
    if not head.names:
        leads[0] = f"It would be {in_words(rates)}. {leads[0]}"
    small = [seeds_in_words(recommendation, judgement)]
    if judgement and judgement.verdict:
        small.insert(0, f"With fresh seeds: {judgement.verdict}")
    kind = "answer" if head.names else "answer none"
    return (
        f'<section class="{kind}" id="answer"><h2>{escape(head.text)}</h2>'
        + "".join(f'<p class="lead">{escape(text)}</p>' for text in leads)
        + f'<p class="muted">{escape(" ".join(small))}</p>'
        + f'<div class="pair">{_rates_table(overview, rates)}{_snippet(rates, beside)}'
        "</div></section>"
    )


def no_answer(reason: str) -> str:
    """Why nothing is recommended yet."""
    return (
        '<section class="answer none" id="answer"><h2>No recommendation yet</h2>'
        f'<p class="lead">{escape(sentence(reason))}</p></section>'
    )


def _rates_table(overview: Overview, rates: Mapping[str, float]) -> str:
    colours = domain_colours(overview.domains)
    natural = overview.natural
    lines = []
    for domain in sorted(rates, key=lambda d: -rates[d]):
        cells = [
            f'<span class="swatch" style="background:{colours.get(domain, "#fff")}"></span>'
            f"{escape(domain)}",
            percent(rates[domain]),
        ]
        cells += [percent(natural.get(domain, 0.0))] if natural else []
        lines.append(cells + ([_bounds(overview, domain)] if overview.bounds else []))
    head = ["domain", "recommended", *(["natural"] if natural else [])]
    return pieces.table([*head, *(["bounds"] if overview.bounds else [])], lines, text=1)


def _bounds(overview: Overview, domain: str) -> str:
    if domain not in overview.bounds:
        return ""
    low, high = overview.bounds[domain]
    return f"{100 * low:.3g} to {100 * high:.3g}{NARROW}%"


def _snippet(rates: Mapping[str, float], beside: Mapping[str, Any]) -> str:
    data = {"mixture": dict(rates), **({"parameters": dict(beside)} if beside else {})}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return (
        '<div class="snippet"><button type="button" data-copies="rates">Copy</button>'
        f'<pre id="rates">{escape(text)}</pre></div>'
    )


def comparison(recommendation: Recommendation) -> str:
    """Recommended, natural, uniform, best expert, best seen: predicted and observed."""
    rows, title = recommendation.rows, "<h2>Beside the alternatives</h2>"
    found = tables.by_goal(rows, recommendation.goals)
    names = {row.name for row in rows}
    said = "; ".join(f"{name}: {what}" for name, what in ROWS.items() if name in names)
    words = f'<p class="muted small">{escape(sentence(said))}</p>' if said else ""
    if recommendation.goals:
        return (
            title
            + "".join(
                f"<h3>{escape(goal)}</h3>{_compared(table)}" for goal, table in found.items()
            )
            + words
        )
    (table,) = found.values()
    gains = [signed(row.objective.mean - rows[0].objective.mean, 4) for row in rows]
    lines = [(*line, gain) for line, gain in zip(table.lines, ["", *gains[1:]], strict=True)]
    table = tables.Table((*table.head, "minus recommended"), tuple(lines))
    return title + _compared(table) + words


def _compared(table: tables.Table) -> str:
    head, *lines = ([escape(cell) for cell in line] for line in (table.head, *table.lines))
    return pieces.table(head, lines, text=1, first=True)


def trade_offs(overview: Overview, front: Sequence[Row], recommended: Row) -> str:
    """Mixtures for other weightings of several objectives."""
    colours = domain_colours(overview.domains)
    lines = [
        [
            pieces.bar(row.mixture, colours),
            escape(in_words(row.mixture)) + (" <b>recommended</b>" if chosen else ""),
            *(f"{goal.mean:.3f}" for goal in row.goals),
        ]
        for row, chosen in marked(front, recommended)
    ]
    return (
        "<h2>Other trade-offs</h2><p>Mixtures that are predicted to be best for some weighting of "
        "the objectives, and their predicted values.</p>"
        + pieces.table(
            ["mixture", "", *map(escape, overview.objectives)], lines, text=2, kind="cards"
        )
    )


def trust(recommendation: Recommendation) -> str:
    """How far the predictions can be believed, and whether to go on."""
    known: Trust = recommendation.trust
    facts = {"runs judged": str(known.n_runs)}
    if known.rmse is not None:
        facts["error (rms)"] = f"{known.rmse:.3f}"
    if known.spearman is not None:
        facts["rank correlation"] = f"{known.spearman:.2f}"
    if known.coverage is not None:
        facts["inside the 90 % interval"] = f"{100 * known.coverage:.0f}{NARROW}%"
    facts["noise of one run (sd)"] = f"{recommendation.noise_sd:.3f}"
    facts["gain of one more run"] = f"{recommendation.expected_gain:.3f}"
    return (
        f"<h2>How far to trust it</h2>{pieces.facts(facts)}"
        f'<p>{escape(sentence(known.statement))}</p><p class="muted small">{JUDGED}</p>'
    )


def warnings(recommendation: Recommendation | None, overview: Overview) -> str:
    """What the reader should know before the figures; nothing where all is well."""
    said = [*(recommendation.notes if recommendation else ())]
    if recommendation and (repeated := epochs.warning(overview, recommendation)):
        said.append(repeated)
    if lost := overview.lost_experts:
        said.append(sentence(no_expert(lost, len(overview.domains))))
    if not said:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f'<section id="warnings"><h2>Mind</h2><ul>{items}</ul></section>'


def mde(said: str) -> str:
    """What MDE has to do with the answer; nothing without experts' files."""
    if not said:
        return ""
    return f"<h2>What MDE alone would have said</h2><p>{MDE}</p><p>{escape(said)}</p>"


def end_tasks(
    overview: Overview, recommendation: Recommendation, confirmation: Confirmation | None
) -> str:
    """Accuracy of what was run; nothing without end tasks that have choices."""
    found = tasks.table(overview, recommendation, confirmation)
    if found is None:
        return ""
    return (
        "<h2>End tasks</h2><p>Share of the questions whose right choice is the likeliest by byte, "
        "as observed. The search goes by losses, which are less noisy; nothing is predicted here."
        f"</p>{pieces.of_words(found)}"
    )


def evaluated(found: tables.Table | None) -> str:
    """What lm-evaluation-harness made of runs; nothing where it was not asked."""
    if found is None:
        return ""
    return (
        f"<h2>Downstream evaluations</h2><p>By lm-evaluation-harness.</p>{pieces.of_words(found)}"
    )


def target_epochs(overview: Overview, recommendation: Recommendation) -> str:
    """How often the target run would read each domain; nothing without a target."""
    found = epochs.table(overview, recommendation)
    if found is None:
        return ""
    return f"<h2>Epochs of the target run</h2>{pieces.of_words(found)}"


def confirmation(judgement: Judgement) -> str:
    """How the confirmation was done, and of what."""
    kept = judgement.confirmation
    earlier = (
        ""
        if judgement.is_current
        else f"<p>They confirm an earlier recommendation, made after {kept.told} trials: "
        f"{escape(in_words(judgement.mixture))}.</p>"
    )
    return (
        "<h2>Confirmed with fresh seeds</h2>"
        f'<p class="muted">{len(kept.mixtures)} mixtures, each trained {len(kept.seeds)} times, '
        "with seeds that no run of the search has used; differences are paired by seed, in nats "
        f"per token.</p>{earlier}"
    )


def confirmed(goal: str, differences: Sequence[Difference], said: str) -> str:
    """What it has said for one goal, whose name is empty if there is one only."""
    lines = [
        [
            f"against {escape(d.other)}",
            f'<span class="{"good" if d.is_better else "bad" if d.is_worse else "muted"}">'
            f"{signed(d.mean)}</span>",
            f"{signed(d.low)} to {signed(d.high)}",
        ]
        for d in differences
    ]
    title = f"<b>{escape(goal)}:</b> " if goal else ""
    return f"<p>{title}{escape(said)}</p>" + pieces.table(
        ["recommended mixture", "difference", "95 % interval"], lines, text=1
    )


def runs(overview: Overview) -> str:
    """Every run: who chose it, its mixture, what was observed and predicted, what it cost."""
    colours = domain_colours(overview.domains)
    beside = any(run.parameters for run in overview.runs)
    head = ["trial", "phase", "mixture", "", *(["parameters"] if beside else [])]
    head += ["observed", "predicted ± sd", "seconds"]
    lines = [_run_line(run, colours, beside=beside) for run in overview.runs]
    return pieces.table(head, lines, text=5 if beside else 4, kind="runs")


def _run_line(run: Run, colours: Mapping[str, str], *, beside: bool) -> list[str]:
    state = share_of_a_run(run.budget) if run.is_shortened else run.state
    observed = " / ".join(f"{value:.3f}" for value in run.values) or state
    predicted = run.predicted and f"{run.predicted[0]:.3f} ± {run.predicted[1]:.3f}"
    parameters = ", ".join(f"{name} = {_plain(v)}" for name, v in run.parameters.items())
    return [
        str(run.number),
        escape(PHASES.get(run.phase, run.phase))
        + (' <span class="bad">forbidden</span>' if run.forbidden else ""),
        pieces.bar(run.mixture, colours),
        escape(in_words(run.mixture)) if run.mixture else "",
        *([escape(parameters)] if beside else []),
        observed,
        predicted or "",
        "" if run.seconds is None else f"{run.seconds:.1f}",
    ]


def losses(overview: Overview) -> str:
    """Observed loss of every run on every validation set; nothing without losses."""
    if not overview.sets:
        return ""
    names = [f'<span title="{escape(s)}">{escape(shortened(s))}</span>' for s in overview.sets]
    lines = [
        [
            str(run.number),
            *(f"{run.losses[s]:.3f}" if s in run.losses else "" for s in overview.sets),
        ]
        for run in overview.runs
        if run.losses
    ]
    return pieces.table(["trial", *names], lines, text=0, kind="losses")


TITLES = {
    "trials": "<h2>All trials</h2>",
    "losses": '<h2>Losses on every validation set</h2><p class="muted">Nats per token.</p>',
}


def placed(key: str, table: str) -> str:
    """Where a table of all runs comes to stand, which the page unpacks."""
    return f'{TITLES[key]}<div id="{key}"></div>' if table else ""


def corpus(held: Corpus) -> str:
    """Text that the runs were trained and scored on."""
    domains = [
        [
            escape(d.name),
            f"{d.tokens:,}",
            "" if d.source_tokens is None else f"{d.source_tokens:,}",
            f"{d.bytes / 1e6:.2f}",
            percent(d.natural),
        ]
        for d in held.domains.values()
    ]
    sets = [
        [
            escape(s.name),
            f"{s.tokens:,}",
            "end task" if s.kind == "prompts" else "" if s.domain else "unseen",
        ]
        for s in held.sets.values()
    ]
    dropped = [f"{name} was left out: {reason}" for name, reason in held.dropped.items()]
    return (
        "<h2>Corpus</h2>"
        + "".join(f"<p>{escape(sentence(text))}</p>" for text in dropped)
        + '<div class="pair">'
        + pieces.table(
            ["domain", "training tokens", "of its source", "MB", "natural share"], domains, text=1
        )
        + pieces.table(["validation set", "tokens scored", ""], sets, text=1)
        + "</div>"
    )


def costs(overview: Overview, confirmation: Confirmation | None = None) -> str:
    """Runs, tokens, operations and time of experts, search and confirmation."""
    facts = {}
    shortened = sum(run.is_shortened for run in overview.finished)
    if shortened:
        facts["shortened experts"] = str(shortened)
        facts["search in full runs"] = f"{sum(r.budget for r in overview.finished):.1f}"
    weights = {run.weights for run in overview.runs if run.weights}
    if len(weights) == 1:
        facts["weights of the model"] = amount(weights.pop())
    shown = pieces.of_words(ledger.table(overview, confirmation))
    return f"<h2>Costs</h2>{shown}{pieces.facts(facts) if facts else ''}"


def versions() -> str:
    """What wrote this page; the runs' own versions are in their folders."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f'<h2>Versions</h2><p class="muted">{escape(", ".join(found))}</p>'


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
