from __future__ import annotations

import pytest
from optuna_mde_studies.report.statements import objective_in_words

from optuna_mde.objective import Objective


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (None, "Objective: the mean loss over all validation sets."),
        ({"docs": 1, "prose": 1}, "Objective: the mean loss on docs and prose."),
        ({"docs": 3, "prose": 1}, "Objective: 0.75 docs + 0.25 prose."),
        (
            {"code": {"python": 1}, "text": "mean"},
            "Objectives: code, the loss on python; text, the mean loss over all validation sets.",
        ),
    ],
)
def test_objectives_are_said(objective, said):
    assert objective_in_words(Objective.parse(objective)) == said
