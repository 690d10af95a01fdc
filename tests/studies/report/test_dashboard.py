from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import optuna
import pytest
from optuna_dashboard import get_note, save_note
from optuna_mde_studies.report import dashboard
from optuna_mde_studies.runner.folder import StudyError


@pytest.fixture(scope="module")
def published(finished, invented, tmp_path_factory):
    """A study in a database, with what a dashboard shows of it."""
    study, recommendation = finished
    storage = f"sqlite:///{tmp_path_factory.mktemp('study')}/study.db"
    optuna.copy_study(
        from_study_name=study.study_name, from_storage=study._storage, to_storage=storage
    )
    copy = optuna.load_study(study_name=study.study_name, storage=storage)
    dashboard.publish(
        copy,
        recommendation=recommendation,
        confirmation=invented.confirmation(recommendation),
    )
    return storage, copy


@pytest.fixture
def address(published):
    """Of a dashboard that is served by another process, ended with Ctrl-C."""
    code = (
        "from optuna_mde_studies.report.dashboard import serve\n"
        f"serve({published[0]!r}, '127.0.0.1', 0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        yield next(word for word in said.split() if word.startswith("http://"))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "", "")


def test_the_dashboard_lists_our_graphs_note_and_objective(address, finished):
    _, recommendation = finished
    with urlopen(f"{address}api/studies") as answer:
        (summary,) = json.load(answer)["study_summaries"]
    with urlopen(f"{address}api/studies/{summary['study_id']}?after=0") as answer:
        study = json.load(answer)
    graphs = {g["id"]: json.loads(g["graph_object"]) for g in study["plotly_graph_objects"]}
    of_answer = {"confirmed", "mixtures", "sets", "effects", "map"}
    assert set(graphs) == of_answer | {"search", "foresight", "tried"}
    for graph in graphs.values():
        assert graph["data"]
        assert graph["layout"]["title"]["text"]
    assert study["objective_names"] == ["loss"]
    note = study["note"]["body"]
    assert f"{recommendation.objective.mean:.4f}" in note
    assert f"{100 * recommendation.mixture['docs']:.1f}" in note


def test_a_users_note_stays_below_ours(published, finished):
    _, study = published
    _, recommendation = finished
    save_note(study, f"{get_note(study)}\n\nMy own words.")
    for _ in range(2):
        dashboard.publish(study, recommendation=recommendation)
    note = get_note(study)
    assert note.count("## Data mixture") == 1
    assert note.endswith("My own words.")


def test_a_note_from_before_is_kept(finished, invented):
    _, recommendation = finished
    fresh = invented.study(n_trials=2)
    save_note(fresh, "Begun on a Tuesday.")
    dashboard.publish(fresh, recommendation=recommendation)
    assert get_note(fresh).endswith("Begun on a Tuesday.")


def test_names_mean_nothing_in_the_note(invent):
    world = invent(domains=("a|b", "**bold**", "[x](javascript:alert(1))", "<img src=x>"))
    study = world.study(n_trials=6)
    dashboard.publish(study)
    note = get_note(study)
    for raw in (r"a|b", r"**bold", r"[x]", r"<img"):
        assert not re.search(rf"(?<!\\){re.escape(raw)}", note), raw
    table = [line for line in note.splitlines() if line.startswith("|")]
    widths = [line.replace(r"\|", "").count("|") for line in table]
    assert len(set(widths)) == 2  # rates, then figures
    assert widths == sorted(widths, reverse=True) or widths == sorted(widths)


def test_a_taken_port_is_said_with_the_mend(published):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StudyError, match=f"--port {port}: cannot listen there.*another port"):
            dashboard.serve(published[0], "127.0.0.1", port)
