"""The report's parts, each from plain data to a piece of HTML."""

from __future__ import annotations

import platform
from datetime import timedelta
from html import escape
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

import yaml
from optuna_mde_studies.palette import domain_colours, signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from optuna_mde_studies.confirm import Confirmation, Difference
    from optuna_mde_studies.evidence import Evidence, Run
    from optuna_mde_trainers.blocks import Corpus

    from optuna_mde.objective import Objective
    from optuna_mde.recommendation import Recommendation, Row
    from optuna_mde.trust import Trust

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
NARROW = "\u202f"
"""Between a number and %: narrow, and no place for a line to break."""
PHASES = {"model": "proposal", "prior": "proposal (no fit)", "mde": "proposal (MDE alone)"}
"""What a reader calls the phases of the search whose own names do not say it."""
NONE = 5e-5
"""Rates below this are 0 for a reader."""
MOST_NAMED = 5
"""Parts of a mixture that a sentence names."""


def header(evidence: Evidence) -> str:
    """Name of the study, and in one line what was searched."""
    finished = len(evidence.complete)
    what = [
        _count(finished, "finished run"),
        _count(len(evidence.domains), "domain"),
        _count(len(evidence.sets), "validation set"),
    ]
    return (
        '<header><p class="kicker">Data mixture study</p>'
        f"<h1>{escape(evidence.study)}</h1>"
        f"<p>{', '.join(what)}. {escape(objective_in_words(evidence.goals))}</p></header>"
    )


def objective_in_words(goals: Objective | None) -> str:
    """What is minimised, in a sentence; nothing if no run says it."""
    if goals is None:
        return ""
    return "; ".join(_goal(name, dict(weights)) for name, weights in goals.goals) + "."


def _goal(name: str, weights: Mapping[str, float]) -> str:
    if not weights:
        return "Objective: the mean loss over all validation sets"
    if len(weights) == 1:
        return f"Objective: the loss on {next(iter(weights))}"
    if len({round(weight, 6) for weight in weights.values()}) == 1:
        return f"Objective: the mean loss on {_listed(weights)}"
    return "Objective: " + " + ".join(f"{weight:.3g} {s}" for s, weight in weights.items())


class Verdict(NamedTuple):
    """What runs with fresh seeds say of the recommended mixture, for one goal."""

    goal: str
    differences: Sequence[Difference]
    sentence: str


def answer(
    evidence: Evidence, recommendation: Recommendation, verdicts: Sequence[Verdict] = ()
) -> str:
    """The recommended mixture: a sentence, a table and what to paste into a configuration."""
    rates = copyable(recommendation.mixture)
    kind, title, lead = "", f"Train on {in_words(rates)}", gain_in_words(evidence, recommendation)
    if not recommendation.signal:
        kind, title = " none", "No mixture stands out from the noise"
    elif any(d.is_worse for verdict in verdicts for d in verdict.differences):
        kind, title = " none", "The recommended mixture did not hold"
    if kind:
        lead = f"It would be {in_words(rates)}. {lead}"
    said = [f"With fresh seeds: {verdicts[0].sentence}"] if len(verdicts) == 1 else []
    leads = "".join(f'<p class="lead">{escape(text)}</p>' for text in [lead, *said])
    return (
        f'<section class="answer{kind}" id="answer"><h2>{escape(title)}</h2>{leads}'
        f'<div class="pair">{_rates_table(evidence, rates)}{_snippet(recommendation, rates)}'
        "</div></section>"
    )


def no_answer(reason: str) -> str:
    """Why nothing is recommended yet."""
    return (
        '<section class="answer none" id="answer"><h2>No recommendation yet</h2>'
        f'<p class="lead">{escape(reason)}</p></section>'
    )


def copyable(mixture: Mapping[str, float], decimals: int = 4) -> dict[str, float]:
    """Rates as one copies them: few decimals, and still a sum of exactly 1."""
    units = {domain: round(rate * 10**decimals) for domain, rate in mixture.items()}
    largest = max(units, key=lambda domain: units[domain])
    units[largest] += 10**decimals - sum(units.values())
    return {domain: unit / 10**decimals for domain, unit in units.items()}


def in_words(mixture: Mapping[str, float]) -> str:
    """The largest parts: "58 % docs, 36 % prose and 6 % python"."""
    parts = sorted(mixture.items(), key=lambda item: -item[1])
    named = [(domain, rate) for domain, rate in parts if rate >= 0.005][:MOST_NAMED]
    words = [f"{100 * rate:.0f}{NARROW}% {domain}" for domain, rate in named]
    rest = sum(1 for _, rate in parts if rate >= NONE) - len(named)
    return _listed([*words, f"{_count(rest, 'smaller part')}"] if rest else words)


def gain_in_words(evidence: Evidence, recommendation: Recommendation) -> str:
    """Predicted objective of the recommended mixture, and what that gains over the baseline."""
    found = recommendation.objective
    what = "Predicted loss" if evidence.goals else "Predicted objective"
    unit = " nats per token" if evidence.goals else ""
    text = f"{what} {found.mean:.3f}{unit} (90 % interval {found.low:.3f} to {found.high:.3f})"
    for row in recommendation.rows:
        if row.name in ("natural", "uniform"):
            gain = found.mean - row.objective.mean
            way = "below" if gain < 0 else "above"
            return f"{text}, {abs(gain):.3f} {way} the {row.name} mixture."
    return f"{text}."


def _rates_table(evidence: Evidence, rates: Mapping[str, float]) -> str:
    colours = domain_colours(evidence.domains)
    natural = evidence.natural
    lines = []
    for domain in sorted(rates, key=lambda d: -rates[d]):
        cells = [
            f'<span class="swatch" style="background:{colours.get(domain, "#fff")}"></span>'
            f"{escape(domain)}",
            _percent(rates[domain]),
        ]
        lines.append(cells + ([_percent(natural.get(domain, 0.0))] if natural else []))
    return _table(["domain", "recommended", *(["natural"] if natural else [])], lines, text=1)


def _snippet(recommendation: Recommendation, rates: Mapping[str, float]) -> str:
    beside = recommendation.params
    data = {"mixture": dict(rates), **({"parameters": dict(beside)} if beside else {})}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return (
        '<div class="snippet"><button type="button" data-copies="rates">Copy</button>'
        f'<pre id="rates">{escape(text)}</pre></div>'
    )


def comparison(evidence: Evidence, recommendation: Recommendation) -> str:
    """Recommended, natural, uniform, best expert, best seen: predicted and observed."""
    rows, front = recommendation.rows, recommendation.pareto
    parts = ["<h2>Beside the alternatives</h2>", _rows_table(evidence, rows, first=True)]
    if front:
        parts += [
            "<h2>Other trade-offs</h2>"
            f"<p>Mixtures that are predicted to be best for some weighting of the "
            f"{len(evidence.objectives)} objectives.</p>",
            _rows_table(evidence, front, first=False),
        ]
    return "".join(parts)


def _rows_table(evidence: Evidence, rows: Sequence[Row], *, first: bool) -> str:
    goals = evidence.objectives if len(evidence.objectives) > 1 else ()
    predicted = "mean of objectives" if goals else "predicted"
    head = ["mixture", *map(escape, goals), predicted, "90 % interval", "observed", "trial"]
    head.append("minus recommended" if first else "rates")
    return _table(
        head, [_row_line(row, rows[0], bool(goals), first) for row in rows], text=1, first=first
    )


def _row_line(row: Row, recommended: Row, several: bool, named: bool) -> list[str]:
    gap = "" if row is recommended else signed(row.objective.mean - recommended.objective.mean)
    return [
        escape(row.name),
        *(f"{goal.mean:.3f}" for goal in (row.goals if several else ())),
        f"{row.objective.mean:.3f}",
        f"{row.objective.low:.3f} to {row.objective.high:.3f}",
        "" if row.observed is None else f"{row.observed:.3f}",
        "" if row.trial is None else str(row.trial),
        gap if named else escape(in_words(row.mixture)),
    ]


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
    notes = "".join(f"<li>{escape(note)}</li>" for note in recommendation.notes)
    parts = [
        f"<h2>How far to trust it</h2>{_facts(facts)}",
        f"<p>{escape(sentence(known.statement))}</p>",
        f"<ul>{notes}</ul>" if notes else "",
    ]
    return "".join(parts)


def confirmation(kept: Confirmation, verdicts: Sequence[Verdict]) -> str:
    """What runs with fresh seeds have said, goal by goal."""
    parts = [
        "<h2>Confirmed with fresh seeds</h2>"
        f'<p class="muted">{len(kept.mixtures)} mixtures, each trained {len(kept.seeds)} times, '
        "with seeds that no run of the search has used; differences are paired by seed, in nats "
        "per token.</p>"
    ]
    for goal, differences, sentence in verdicts:
        title = f"<b>{escape(goal)}:</b> " if len(verdicts) > 1 else ""
        lines = [
            [
                f"against {escape(d.other)}",
                f'<span class="{"good" if d.is_better else "bad" if d.is_worse else "muted"}">'
                f"{signed(d.mean)}</span>",
                f"{signed(d.low)} to {signed(d.high)}",
            ]
            for d in differences
        ]
        table = _table(["recommended mixture", "difference", "95 % interval"], lines, text=1)
        parts.append(f"<p>{title}{escape(sentence)}</p>{table}")
    return "".join(parts)


def runs(evidence: Evidence) -> str:
    """Every run: who chose it, its mixture, what was observed and predicted, what it cost."""
    colours = domain_colours(evidence.domains)
    beside = any(run.parameters for run in evidence.runs)
    head = ["trial", "chosen as", "mixture", "", *(["parameters"] if beside else [])]
    head += ["observed", "predicted", "seconds"]
    lines = [_run_line(run, colours, beside=beside) for run in evidence.runs]
    return "<h2>All trials</h2>" + _table(head, lines, text=5 if beside else 4)


def _run_line(run: Run, colours: Mapping[str, str], *, beside: bool) -> list[str]:
    state = f"{run.budget:.0%} of a run" if run.budget < 1 else run.state
    observed = " / ".join(f"{value:.3f}" for value in run.values) or state
    predicted = run.predicted and f"{run.predicted[0]:.3f} ± {run.predicted[1]:.3f}"
    parameters = ", ".join(f"{name} = {_plain(v)}" for name, v in run.parameters.items())
    return [
        str(run.number),
        escape(PHASES.get(run.phase, run.phase)),
        _bar(run.mixture, colours),
        escape(in_words(run.mixture)) if run.mixture else "",
        *([escape(parameters)] if beside else []),
        observed,
        predicted or "",
        "" if run.seconds is None else f"{run.seconds:.1f}",
    ]


def losses(evidence: Evidence) -> str:
    """Observed loss of every run on every validation set."""
    if not evidence.sets:
        return ""
    head = ["trial", *(escape(name) for name in evidence.sets)]
    lines = [
        [
            str(run.number),
            *(f"{run.losses[s]:.3f}" if s in run.losses else "" for s in evidence.sets),
        ]
        for run in evidence.runs
        if run.losses
    ]
    return (
        "<h2>Losses on every validation set</h2>"
        f'<p class="muted">Nats per token.</p>{_table(head, lines, text=0)}'
    )


def corpus(held: Corpus) -> str:
    """Text that the runs were trained and scored on."""
    domains = [
        [escape(d.name), f"{d.tokens:,}", f"{d.bytes / 1e6:.2f}", _percent(d.natural)]
        for d in held.domains.values()
    ]
    sets = [
        [escape(s.name), f"{s.tokens:,}", "" if s.domain else "belongs to no domain"]
        for s in held.sets.values()
    ]
    return (
        '<h2>Corpus</h2><div class="pair">'
        + _table(["domain", "training tokens", "MB", "natural share"], domains, text=1)
        + _table(["validation set", "tokens scored", ""], sets, text=1)
        + "</div>"
    )


def costs(evidence: Evidence) -> str:
    """Tokens, seconds and runs that the search has spent."""
    facts = {"finished runs": str(len(evidence.complete))}
    unfinished = len(evidence.runs) - len(evidence.complete)
    if unfinished:
        facts["other runs"] = str(unfinished)
    tokens = sum(run.tokens or 0 for run in evidence.runs)
    if tokens:
        facts["training tokens"] = f"{tokens / 1e6:,.1f} M"
    weights = {run.weights for run in evidence.runs if run.weights}
    if len(weights) == 1:
        facts["weights of the model"] = f"{weights.pop() / 1e6:,.2f} M"
    spent = sum(run.seconds or 0 for run in evidence.runs)
    if spent:
        facts["time of all runs"] = _duration(spent)
    return f"<h2>Costs</h2>{_facts(facts)}"


def versions() -> str:
    """What wrote this page; the runs' own versions are in their folders."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f'<h2>Versions</h2><p class="muted">{escape(", ".join(found))}</p>'


# Small things


def _table(
    head: Sequence[str], lines: Iterable[Sequence[str]], *, text: int, first: bool = False
) -> str:
    """A table of ready HTML cells; columns from `text` on hold numbers."""
    kinds = ["" if i < text else ' class="n"' for i in range(len(head))]
    titles = "".join(f"<th{kind}>{title}</th>" for title, kind in zip(head, kinds, strict=True))
    rows = []
    for i, line in enumerate(lines):
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(line, kinds, strict=True))
        rows.append(f'<tr class="first">{cells}</tr>' if first and i == 0 else f"<tr>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{pairs}</dl>'


def _bar(mixture: Mapping[str, float], colours: Mapping[str, str]) -> str:
    parts = "".join(
        f'<span style="width:{rate:.2%};background:{colours[domain]}" '
        f'title="{escape(domain)} {rate:.1%}"></span>'
        for domain, rate in mixture.items()
        if rate >= NONE
    )
    return f'<div class="bar">{parts}</div>'


def _percent(rate: float) -> str:
    return "0" if rate < NONE else f"{100 * rate:.1f}{NARROW}%"


def sentence(text: str) -> str:
    """Begins with a capital, ends with a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
