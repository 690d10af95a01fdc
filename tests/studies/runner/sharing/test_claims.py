"""What one process of all machines does alone."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import optuna
import pytest
from optuna_mde_studies.runner.sharing import claims, leases
from optuna_mde_studies.runner.sharing.claims import CLAIM_ATTR, claimed


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    monkeypatch.setattr(claims, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "LAPSE_SECONDS", 0.3)
    return optuna.create_study()


def held(study: optuna.Study) -> dict[str, object]:
    return study._storage.get_study_system_attrs(study._study_id)[CLAIM_ATTR]


def test_others_wait_for_as_long_as_it_is_renewed(study):
    order: list[str] = []
    begun = threading.Event()

    def build() -> None:
        with claimed(study, nullcontext, lambda place: None):
            begun.set()
            time.sleep(1.0)  # more than three times what lets it lapse
            order.append("first")

    first = threading.Thread(target=build)
    first.start()
    begun.wait()
    with claimed(study, nullcontext, order.append):
        order.append("second")
    first.join()
    waited = [place for place in order if ":" in place]
    assert waited
    assert [each for each in order if each not in waited] == ["first", "second"]
    assert held(study) == {}


def test_one_that_is_not_renewed_lapses(study):
    lost = {"owner": "f" * 32, "place": "gone:1", "beat": 3}
    study._storage.set_study_system_attr(study._study_id, CLAIM_ATTR, lost)
    began, waited = time.monotonic(), []
    with claimed(study, nullcontext, waited.append):
        assert held(study)["owner"] != lost["owner"]
    assert time.monotonic() - began >= 0.3
    assert set(waited) == {"gone:1"}


def test_a_claim_is_given_up_where_its_work_fails(study):
    with pytest.raises(RuntimeError), claimed(study, nullcontext, lambda place: None):
        raise RuntimeError
    assert held(study) == {}
