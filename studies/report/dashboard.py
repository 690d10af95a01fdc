"""A study in Optuna Dashboard: our pictures among its graphs, and a note with the recommendation.

What is published lies in the study's storage, so a dashboard that somebody else has opened on it
shows it too. It is a picture of that moment: while ours is open, it is published again whenever
trials have finished.
"""

from __future__ import annotations

import re
import socketserver
import warnings
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState
from optuna_mde_studies.report import (
    artifacts,
    curves,
    epochs,
    figures,
    overview,
    statements,
    tasks,
)
from optuna_mde_studies.report.headlines import headline
from optuna_mde_studies.report.judgement import Judgement, judge
from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.runner.trials import no_expert
from optuna_mde_studies.wording import sentence

from optuna_mde.answers import tables
from optuna_mde.visualization.palette import titled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna_mde_studies.report.figures import Picture
    from optuna_mde_studies.runner.confirm import Confirmation

    from optuna_mde.answers.answer import Recommendation

END = "*Written by `optuna-mde dashboard`, which keeps what stands below this line.*"
TITLE_HEIGHT = 24
"""Pixels of a title, above what a figure keeps free itself."""
EVERY_SECONDS = 10.0
"""Between two looks for trials that have finished."""
CARD_HEIGHT = 450
"""Pixels that the dashboard gives to a figure, whatever the figure asks for."""


def publish(
    study: optuna.Study,
    *,
    recommendation: Recommendation | None = None,
    confirmation: Confirmation | None = None,
    runs: Path | None = None,
) -> None:
    """Puts our figures among the study's graphs, a note above them, and names on its objectives.

    A note that the user has written is kept below ours.

    Args:
        study: any study with mixtures; it need not be finished.
        recommendation: what `optuna_mde.recommend(study)` has said; asked for if missing.
        confirmation: runs of the recommended mixture and others with fresh seeds.
        runs: folder of the study's runs, whose losses on the way are drawn; None: there is none.
    """
    from optuna_dashboard import get_note, save_note, save_plotly_graph_object

    answered, reason = overview.answered(study, recommendation)
    recommendation = answered.recommendation if answered else recommendation
    found = overview.read(study)
    confirmed = judge(found, recommendation, confirmation)
    traced = curves.of_study(found, runs, recommendation, confirmation) if runs else ()
    for picture in [
        *figures.confirmation(confirmed),
        *figures.pictures(found, recommendation, answered),
        *figures.of_curves(found, traced),
    ]:
        save_plotly_graph_object(study, _card(picture), graph_object_id=picture.key)
    _, _, rest = get_note(study).rpartition(END)
    text = (
        _note(found, recommendation, confirmed)
        if recommendation
        else f"No recommendation yet: {_plain(sentence(reason))}"
    )
    save_note(study, f"## Data mixture\n\n{text}\n\n---\n{END}\n\n{rest.lstrip()}")
    if not study.metric_names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(found.objectives))


class Follower:
    """Publishes a study, and again whenever trials have finished or it was confirmed.

    Args:
        study: the study.
        confirmation: reads what fresh seeds have said so far.
        runs: folder of its runs, whose files the trials are to show; None: there is none.
    """

    def __init__(
        self,
        study: optuna.Study,
        confirmation: Callable[[], Confirmation | None] = lambda: None,
        runs: Path | None = None,
    ) -> None:
        self._study, self._confirmation, self._runs = study, confirmation, runs
        self._shown: object = None

    def follow(self) -> bool:
        """Publishes what is new; whether there was something."""
        confirmation = self._confirmation()
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        told = len(self._study.get_trials(deepcopy=False, states=done))
        if (now := (told, confirmation)) == self._shown:
            return False
        publish(self._study, confirmation=confirmation, runs=self._runs)
        if self._runs is not None:
            artifacts.publish(self._study, self._runs)
        self._shown = now
        return True

    def follow_on(self, ended: Event) -> None:
        """Follows until the end, every few seconds."""
        while not ended.wait(EVERY_SECONDS):
            # a storage that is away for a moment, a fit that fails: the next look may do better
            with suppress(Exception):
                self.follow()


def _card(picture: Picture) -> go.Figure:
    """The figure with its title, as high as its card."""
    layout = titled(picture.figure, picture.title)
    layout["margin_t"] = max(layout["margin_t"], picture.figure.layout.margin.t + TITLE_HEIGHT)
    return go.Figure(picture.figure).update_layout(height=CARD_HEIGHT, **layout)


def _note(
    found: overview.Overview, recommendation: Recommendation, confirmed: Judgement | None
) -> str:
    rates, _ = statements.recommended(found, recommendation)
    said = [
        *statements.findings(found, recommendation, confirmed),
        statements.seeds_in_words(recommendation, confirmed),
        confirmed.verdict if confirmed else "",
    ]
    title = headline(found, recommendation, rates, confirmed).text
    lines = [f"**{_plain(title)}.** {_plain(' '.join(filter(None, said)))}", ""]
    rows, kept = recommendation.rows, confirmed.confirmation if confirmed else None
    shown = {
        "Rates": tables.rates(rows),
        "Objective": tables.comparison(rows, recommendation.goals),
        "Epochs of the target run": epochs.table(found, recommendation),
        "End tasks": tasks.table(found, recommendation, kept),
    }
    for name, table in shown.items():
        lines += [f"**{name}**", "", *_markdown(table), ""] if table is not None else []
    lines += ["**Trust**", "", _plain(sentence(recommendation.trust.statement)), ""]
    notes = [*recommendation.notes, epochs.warning(found, recommendation)]
    if lost := found.lost_experts:
        notes.append(sentence(no_expert(lost, len(found.domains))))
    said = [f"- {_plain(note)}" for note in notes if note]
    return "\n".join([*lines, *(["**Mind**", "", *said] if said else [])])


def _markdown(table: tables.Table) -> Iterator[str]:
    name, *figures = map(_plain, table.head)
    # The dashboard draws cells without a margin.
    yield f"| {name} | {' | '.join(f'&emsp;{figure}' for figure in figures)} |"
    yield f"|---|{'---:|' * len(figures)}"
    for line in table.lines:
        first, *others = map(_plain, line)
        yield f"| {first} | {' | '.join(f'&emsp;{cell}' for cell in others)} |"


def _plain(text: str) -> str:
    """Text whose characters mean nothing in Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", text.replace("\n", " "))


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a browser's open connection does not hold up Ctrl-C


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """The dashboard asks for news every few seconds; nobody wants to read that."""


def serve(
    storage: str | optuna.storages.BaseStorage,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    runs: Path | None = None,
    follower: Follower | None = None,
) -> None:
    """Opens Optuna Dashboard and prints its address; returns on Ctrl-C.

    Args:
        storage: storage of the study, or its URL as Optuna takes it.
        host: address to listen on. Whoever reaches it may change the study.
        port: port to listen on; 0 takes a free one.
        runs: folder of the study's runs, whose files it opens.
        follower: publishes the study again while trials finish.

    Raises:
        StudyError: if nothing can listen there.
    """
    from optuna_dashboard import wsgi

    app = wsgi(storage, artifact_store=artifacts.RunFiles(runs) if runs else None)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise StudyError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error}); "
            "choose another port, 0 takes a free one"
        ) from None
    with server:
        print(
            f"Optuna Dashboard: http://{host}:{server.server_port}/  (Ctrl-C ends it)", flush=True
        )
        ended = Event()
        if follower is not None:
            Thread(target=follower.follow_on, args=(ended,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
        finally:
            ended.set()
