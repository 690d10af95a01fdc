"""What a study has cost, by what its runs were for."""

from __future__ import annotations

import optuna
import pytest
from optuna_mde_studies.report import overview
from optuna_mde_studies.report.costs import ledger, table
from optuna_mde_studies.runner.confirm import Confirmation, gather
from optuna_mde_trainers.spec import Ledger, RunResult

from optuna_mde import report_losses, suggest_mixture

MIXTURES = [{"web": 1.0, "code": 0.0}, {"web": 0.0, "code": 1.0}, {"web": 0.4, "code": 0.6}]


def result(tokens: int, ledger: Ledger | None) -> RunResult:
    return RunResult(
        losses={"web": 3.0},
        bits_per_byte={},
        set_fingerprints={},
        train_loss=3.0,
        tokens=tokens,
        parameters=10,
        realised={},
        seconds=2.0,
        ledger=ledger,
    )


def test_kinds_of_runs_are_added_up_apart():
    study = optuna.create_study()
    for number, mixture in enumerate([*MIXTURES, MIXTURES[2], MIXTURES[2]]):
        study.enqueue_trial({f"mix/{name}": rate for name, rate in mixture.items()})
        trial = study.ask()
        suggest_mixture(trial, ["web", "code"])
        if number == 4:  # it runs still
            break
        trial.set_user_attr("phase", "expert" if number < 2 else "model")
        trial.set_user_attr("flops", 10.0**number)
        trial.set_user_attr("device_seconds", 100.0 + number)
        if number == 3:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        study.tell(trial, report_losses(trial, {"a": 3.0}, tokens=50, parameters=7))
    confirmation = Confirmation(told=3, seeds=[7, 8], mixtures={"recommended": MIXTURES[2]})
    confirmation = gather(
        confirmation,
        [
            result(1000, Ledger(flops=5e6, device_seconds=3.0)),
            result(1000, Ledger(flops=6e6, device_seconds=4.0)),
        ],
    )
    found = {cost.what: cost for cost in ledger(overview.read(study), confirmation)}
    told = {
        name: (cost.runs, cost.tokens, cost.flops, cost.seconds) for name, cost in found.items()
    }
    assert told == {
        "experts": (2, 100, 11.0, 201.0),
        "search": (1, 50, 100.0, 102.0),
        "wasted (failed or left out)": (1, None, 1000.0, 103.0),
        "confirmation": (2, 2000, 11e6, 7.0),
        "all": (6, 2150, pytest.approx(11e6 + 1111), 413.0),
    }


def test_runs_without_a_ledger_cost_their_seconds():
    confirmation = Confirmation(told=3, seeds=[7, 8], mixtures={"recommended": MIXTURES[2]})
    kept = gather(confirmation, [result(5, None), result(5, None)])
    assert (kept.tokens, kept.flops, kept.device_seconds) == (10, None, 4.0)


@pytest.mark.parametrize("flops", [None, 5.0])
def test_without_flops_there_is_no_column_of_them(flops):
    study = optuna.create_study()
    trial = study.ask()
    suggest_mixture(trial, ["web", "code"])
    trial.set_user_attr("device_seconds", 60.0)
    if flops is not None:
        trial.set_user_attr("flops", flops)
    study.tell(trial, report_losses(trial, {"a": 3.0}, tokens=50, parameters=7))
    found = table(overview.read(study))
    assert ("FLOP" in found.head) == (flops is not None)
    assert all(len(line) == len(found.head) for line in found.lines)
