"""One HTML page that says what a study found: the answer first, then why it can be believed.

The page needs nothing but itself: Plotly's script is inside, packed as are the figures and the
tables of all runs, and its content security policy forbids every connection. Whatever a user has
named (study, domains, sets) is escaped.
"""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from itertools import zip_longest
from string import Template
from typing import TYPE_CHECKING

from optuna_mde_studies.report import (
    curves,
    evaluations,
    figures,
    overview,
    packing,
    sections,
    statements,
)
from optuna_mde_studies.report.judgement import Judgement, judge
from optuna_mde_studies.runner.confirm import Confirmation
from optuna_mde_studies.runner.folder import StudyFolder, at
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.spec import write_atomic

from optuna_mde.answers.mde_alone import mde_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import plotly.graph_objects as go
    from optuna import Study
    from optuna_mde_studies.report.figures import Picture

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.visualization.answered import Answered

TEMPLATE = "page.html"


def write(
    study: Study,
    folder: Path,
    *,
    recommendation: Recommendation | None = None,
    confirmation: Confirmation | None = None,
) -> Path:
    """Writes `report.html`.

    Args:
        study: any study with mixtures; it need not be finished.
        folder: where the page goes. A corpus in `folder/corpus` is described in it.
        recommendation: what `optuna_mde.recommend(study)` has said; asked for if missing.
        confirmation: runs of the recommended mixture and others with fresh seeds.

    Returns:
        The path of the page.
    """
    answered, reason = overview.answered(study, recommendation)
    recommendation = answered.recommendation if answered else recommendation
    found = overview.read(study)
    confirmed = judge(found, recommendation, confirmation)
    drawn = figures.confirmation(confirmed)
    shown = figures.pictures(found, recommendation, answered, in_parts=True)
    traced = curves.of_study(found, at(folder).runs, recommendation, confirmation)
    shown += figures.of_curves(found, traced)
    tables = {"trials": sections.runs(found), "losses": sections.losses(found)}
    parts = [
        sections.header(found),
        *_answer(found, recommendation, confirmed, reason),
        *_confirmed(confirmed, drawn),
        *(f"<h2>{escape(picture.title)}</h2>{_figure(picture)}" for picture in shown),
        sections.trust(recommendation) if recommendation else "",
        sections.mde(_mde(answered)),
        sections.target_epochs(found, recommendation) if recommendation else "",
        sections.costs(found, confirmed.confirmation if confirmed else None),
        sections.evaluated(evaluations.table(found, at(folder), confirmation)),
        *(sections.placed(key, table) for key, table in tables.items()),
        *_corpus(at(folder).corpus),
        sections.versions(),
    ]
    path = at(folder).report
    write_atomic(path, _page(study.study_name, parts, tables, [*drawn, *shown]))
    return path


def keep_current(
    study: Study, folder: StudyFolder, recommendation: Recommendation, begin: Callable[[], None]
) -> None:
    """Writes the page of a study that has ended, unless it shows what is known already.

    Args:
        study: the study.
        folder: its folder, where a confirmation may lie.
        recommendation: what it recommends.
        begin: called before the page is written.
    """
    if _is_stale(folder):
        begin()
        confirmation = Confirmation.read(folder.confirmation)
        write(study, folder.path, recommendation=recommendation, confirmation=confirmation)


def _is_stale(folder: StudyFolder) -> bool:
    """Whether what the page shows is newer than the page."""
    if not folder.report.exists():
        return True
    written = folder.report.stat().st_mtime
    shown = (folder.recommendation, folder.confirmation)
    return any(path.exists() and path.stat().st_mtime > written for path in shown)


def _answer(
    found: overview.Overview,
    recommendation: Recommendation | None,
    confirmed: Judgement | None,
    reason: str,
) -> Iterator[str]:
    if recommendation is None:
        yield sections.no_answer(reason)
        yield sections.warnings(None, found)
        return
    yield sections.answer(found, recommendation, confirmed)
    yield sections.warnings(recommendation, found)
    yield sections.comparison(recommendation)
    if recommendation.pareto:
        yield sections.trade_offs(found, recommendation.pareto, recommendation.rows[0])
    kept = confirmed.confirmation if confirmed else None
    yield sections.end_tasks(found, recommendation, kept)


def _mde(answered: Answered | None) -> str:
    if answered is None:
        return ""
    found = mde_alone(answered.fitted, answered.point)
    return statements.mde_in_words(found, answered.recommendation) if found else ""


def _confirmed(confirmed: Judgement | None, drawn: Sequence[Picture]) -> Iterator[str]:
    if confirmed is None:
        return
    yield sections.confirmation(confirmed)
    verdicts = confirmed.verdicts
    for (goal, found), picture in zip_longest(confirmed.differences.items(), drawn):
        yield sections.confirmed(goal if len(verdicts) > 1 else "", found, verdicts[goal])
        if picture:
            yield _figure(picture)


def _corpus(folder: Path) -> Iterator[str]:
    try:
        yield sections.corpus(Corpus.load(folder))
    except CorpusError:  # none, or one that is still being made
        return


def _figure(picture: Picture) -> str:
    drawn = _drawn(picture)
    divs = "".join(
        f'<div id="{key}" style="--height:{figure.layout.height}"></div>'
        for key, figure in drawn.items()
    )
    kind = ' class="panels"' if len(drawn) > 1 else ""
    return (
        f'<figure aria-label="{escape(picture.title)}"><div{kind}>{divs}</div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _drawn(picture: Picture) -> dict[str, go.Figure]:
    """HTML id -> what is drawn there."""
    if not picture.panels:
        return {picture.key: picture.figure}
    return {f"{picture.key}-{i}": panel for i, panel in enumerate(picture.panels)}


def _page(
    title: str, parts: Sequence[str], tables: Mapping[str, str], shown: Sequence[Picture]
) -> str:
    template = resources.files("optuna_mde_studies.report").joinpath(TEMPLATE).read_text("utf-8")
    figures = ",".join(
        f'"{key}":{figure.to_json()}'
        for picture in shown
        for key, figure in _drawn(picture).items()
    )
    held = f'{{"tables":{json.dumps(tables)},"figures":{{{figures}}}}}'
    return Template(template).substitute(
        title=escape(f"{title}: data mixture"),
        plotly=packing.plotly(),
        packed=packing.packed(held),
        body="\n".join(parts),
    )
