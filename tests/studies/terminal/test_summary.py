from __future__ import annotations

from io import StringIO

import pytest
from optuna_dashboard import get_note
from optuna_mde_studies.report import dashboard, page
from optuna_mde_studies.terminal import summary
from optuna_mde_studies.terminal.progress import PLAIN_WIDTH
from rich.console import Console

from optuna_mde import recommend
from optuna_mde.answers.front import SHOWN, marked
from optuna_mde.answers.tables import by_goal, comparison, rates
from optuna_mde.objective import Objective


def printed(recommendation, goals, width=PLAIN_WIDTH) -> str:
    out = Console(file=StringIO(), width=width, highlight=False)
    for part in summary.outcome(recommendation, goals):
        out.print(part)
    return out.file.getvalue()


ONE = {"docs": 1, "prose": 1}
TWO = {"writing": {"docs": 1, "prose": 1}, "code": {"python": 1}}


@pytest.mark.parametrize("objective", [ONE, TWO])
def test_every_place_shows_the_same_cells(objective, invent, tmp_path):
    world = invent()
    world.objective = objective
    study = world.study()
    recommendation = recommend(study)
    dashboard.publish(study, recommendation=recommendation)
    written = page.write(study, tmp_path, recommendation=recommendation).read_text("utf-8")
    note, text = get_note(study).replace("&emsp;", ""), str(recommendation)
    terminal = printed(recommendation, Objective.parse(objective), 200)
    for line in comparison(recommendation.rows, recommendation.goals).lines:
        for cell in line:
            assert cell in text
            assert f"| {dashboard._plain(cell)} |" in note
    tables = by_goal(recommendation.rows, recommendation.goals)
    assert [*tables] == [*(recommendation.goals or [""])]
    for table in tables.values():
        for cell in (cell for line in table.lines for cell in line):
            assert cell in terminal
            assert f">{cell}</td>" in written
    for line in rates(recommendation.rows).lines:
        assert f"| {' | '.join(map(dashboard._plain, line))} |" in note
        assert line in [tuple(found.split()) for found in terminal.splitlines()]


@pytest.mark.parametrize("objective", [ONE, TWO])
def test_labels_and_figures_fit_eighty_columns(objective, invent):
    world = invent()
    world.objective = objective
    recommendation = recommend(world.study())
    text = printed(recommendation, Objective.parse(objective), 80)
    for goal, table in by_goal(recommendation.rows, recommendation.goals).items():
        assert goal in text
        for name, predicted, interval, *_ in table.lines:
            found = [line.split("  ") for line in text.splitlines() if line.startswith(name)]
            assert any({predicted, interval} <= set(map(str.strip, cells)) for cells in found)


def test_a_front_is_told_by_a_few_mixtures_with_the_recommended_one_among_them(invent, tmp_path):
    world = invent()
    world.objective = TWO
    study = world.study()
    recommendation = recommend(study)
    assert len(recommendation.pareto) > SHOWN
    told = marked(recommendation.pareto, recommendation.rows[0])
    assert 5 <= len(told) <= SHOWN + 1
    assert [row.mixture for row, chosen in told if chosen] == [recommendation.mixture]
    firsts = [row.goals[0].mean for row, _ in told]
    assert firsts == sorted(firsts)
    every = [row.goals[0].mean for row in recommendation.pareto]
    assert {min(every), max(every)} <= set(firsts)
    text = printed(recommendation, Objective.parse(TWO), 80)
    assert text.count("(recommended)") == 1
    written = page.write(study, tmp_path, recommendation=recommendation).read_text("utf-8")
    assert written.count("<b>recommended</b>") == 1
