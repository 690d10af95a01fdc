"""Studies whose experts' files are wrong, not to be opened, or at URLs: what users see of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from optuna_mde import MDESampler, recommend, report_losses, save_logprobs, suggest_mixture
from optuna_mde.mde import urls
from optuna_mde.mde.experts import ExpertTable
from tests.optuna_mde.toy import phases, quietly
from tests.optuna_mde.web_server import Server

pytestmark = quietly

DOMAINS = ["web", "code", "books"]


def _logprobs() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    base = rng.normal(-4.0, 1.5, 800)
    better = {"web": 0.0, "code": 0.8, "books": 0.2}
    return {
        d: {"a": np.minimum(base + by + rng.normal(0.0, 1.0, 800), -1e-3)}
        for d, by in better.items()
    }


LOGPROBS = _logprobs()
TABLE = ExpertTable(DOMAINS, LOGPROBS)


def loss(mixture: dict[str, float]) -> float:
    return float(TABLE.losses(np.array([mixture[d] for d in DOMAINS]))[0])


def run(study: optuna.Study, n: int, url: Callable[[str], str | None]) -> None:
    """Runs whose loss is that of MDE; the expert of a domain leaves the file `url(domain)`."""

    def objective(trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, DOMAINS)
        domain = max(mixture, key=mixture.__getitem__)
        file = url(domain) if mixture.is_expert else None
        return report_losses(trial, {"a": loss(mixture)}, logprobs=file)

    study.optimize(objective, n_trials=n)


def study_of(storage: Any = None, study_name: str | None = None, **options: Any) -> optuna.Study:
    sampler = MDESampler(seed=0, **options)
    return optuna.create_study(sampler=sampler, storage=storage, study_name=study_name)


@pytest.fixture
def lowest() -> float:
    return float(TABLE.losses(np.random.default_rng(0).dirichlet(np.ones(3), 5000)).min())


def test_a_file_in_log10_is_left_out_and_named(tmp_path: Path, lowest: float) -> None:
    """Believed, it has 100 % of its domain recommended."""

    def url(domain: str) -> str:
        unit = np.log(10.0) if domain == "web" else 1.0
        return save_logprobs(tmp_path / domain, {"a": LOGPROBS[domain]["a"] / unit})

    study = study_of()
    run(study, 9, url)
    recommended = recommend(study)
    (note,) = [note for note in recommended.notes if "expert of web" in note]
    assert "is left out" in note
    assert "as logarithms to base 10 would give" in note
    assert loss(recommended.mixture) < lowest + 0.03


def test_files_of_another_level_that_were_passed_in_are_believed(tmp_path: Path) -> None:
    files = {d: save_logprobs(tmp_path / d, {"a": 0.8 * LOGPROBS[d]["a"]}) for d in DOMAINS}
    study = study_of(experts=files)
    for corner in np.eye(3).tolist():  # runs of the corners themselves do not speak against them
        study.enqueue_trial({f"mix/{d}": rate for d, rate in zip(DOMAINS, corner, strict=True)})
    run(study, 6, lambda domain: None)
    assert not [note for note in recommend(study).notes if "left out" in note]


@pytest.mark.parametrize("kind", ["http", "file"])
def test_a_file_that_the_storage_names_is_opened_below_allowed_roots_only(
    kind: str, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for domain in DOMAINS:
        path = save_logprobs(tmp_path / domain, LOGPROBS[domain])
        server.files[domain] = Path(path).read_bytes()
    monkeypatch.setattr(urls, "_handed", set())  # another process wrote them
    base = server.url if kind == "http" else f"file://{tmp_path}"
    study = study_of()
    run(study, 3, lambda domain: None)
    for corner, domain in zip(np.eye(3).tolist(), DOMAINS, strict=True):
        params = {f"mix/{d}": rate for d, rate in zip(DOMAINS, corner, strict=True)}
        reported = {"a": loss(dict(zip(DOMAINS, corner, strict=True)))}
        trial = optuna.create_trial(
            params=params,
            distributions=dict.fromkeys(params, FloatDistribution(0.0, 1.0)),
            value=reported["a"],
            user_attrs={"losses": reported, "logprobs": f"{base}/{domain}"},
        )
        study.add_trial(trial)  # as another hand writes it
    # what a storage says of its own folder opens nothing either
    study.set_user_attr("mde_folder", "/" if kind == "file" else base)
    with pytest.warns(UserWarning, match="are not opened, as the study's storage names them"):
        notes = recommend(study).notes
    (note,), place = (n for n in notes if "OPTUNA_MDE_ALLOW" in n), base.removeprefix("file://")
    assert note.startswith(f"Experts are left out: 3 log-probability files below {place} are")
    assert server.requests == 0
    monkeypatch.setenv(urls.ALLOW, base)
    assert not any("left out" in note for note in recommend(study).notes)
    assert (server.requests > 0) is (kind == "http")


def test_experts_files_lie_at_any_url(server: Server, tmp_path: Path, lowest: float) -> None:
    run_by_memory = study_of()
    run(run_by_memory, 6, lambda d: save_logprobs(f"memory://experts/{d}", LOGPROBS[d]))
    for domain in DOMAINS:
        path = save_logprobs(tmp_path / domain, LOGPROBS[domain])
        server.files[domain] = Path(path).read_bytes()
    run_by_http = study_of(experts={d: f"{server.url}/{d}" for d in DOMAINS})
    run(run_by_http, 3, lambda domain: None)
    for study in (run_by_memory, run_by_http):
        assert "model" in phases(study)
        assert loss(recommend(study).mixture) < lowest + 0.01


def test_experts_without_the_package_of_their_scheme_leave_the_study_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.registry import known_implementations

    entry = {"class": "no_such_package.FileSystem", "err": "Install no_such_package"}
    monkeypatch.setitem(known_implementations, "nowhere", entry)
    files = {d: save_logprobs(tmp_path / d, LOGPROBS[d]) for d in DOMAINS[1:]}
    study = study_of(experts={**files, "web": "nowhere://bucket/web"})
    run(study, 5, lambda domain: None)
    assert "model" in phases(study)
    assert any("Install no_such_package" in note for note in recommend(study).notes)
    nowhere = study_of(experts={d: f"nowhere://bucket/{d}" for d in DOMAINS})
    run(nowhere, 8, lambda domain: None)
    assert "model" in phases(nowhere)
    assert recommend(nowhere).mixture


def test_what_is_reported_may_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by a trainer in another process, and handed to this one by the objective."""
    files = {d: save_logprobs(tmp_path / d, LOGPROBS[d]) for d in DOMAINS}
    monkeypatch.setattr(urls, "_handed", set())
    study = study_of()
    run(study, 6, files.__getitem__)
    assert not any("left out" in note for note in recommend(study).notes)


@pytest.mark.parametrize("allowed", [True, False])
def test_relative_paths_are_found_from_another_folder_below_known_ones(
    allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    own.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(own)
    place = tmp_path / "shared.db" if allowed else own / "own.db"
    study = study_of(storage=f"sqlite:///{place}", study_name="s")
    run(study, 4, lambda d: save_logprobs(f"experts/{d}", LOGPROBS[d]))
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(urls, "_handed", set())  # as in another process
    if allowed:
        with pytest.warns(UserWarning, match="cannot be read"):
            recommend(study)
        monkeypatch.setenv(urls.ALLOW, str(own))
    read = optuna.load_study(study_name="s", storage=f"sqlite:///{place}")
    assert not any("left out" in note for note in recommend(read).notes)
    # no way up is a way below
    monkeypatch.delenv(urls.ALLOW, raising=False)
    assert urls.found_below("../own/experts/web", [str(elsewhere)]) is None


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_files_beside_the_storages_own_may_be_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage: Any = f"sqlite:///{tmp_path}/study.db"
    if kind == "journal":
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    study = study_of(storage=storage, study_name="s")
    run(study, 5, lambda d: save_logprobs(tmp_path / "experts" / d, LOGPROBS[d]))
    monkeypatch.setattr(urls, "_handed", set())  # as in the process of another worker
    read = optuna.load_study(study_name="s", storage=storage)
    assert not any("left out" in note for note in recommend(read).notes)
    moved = optuna.create_study(sampler=MDESampler(seed=0))
    moved.add_trials(study.trials)
    with pytest.warns(UserWarning, match="are not opened"):
        assert any("OPTUNA_MDE_ALLOW" in note for note in recommend(moved).notes)
