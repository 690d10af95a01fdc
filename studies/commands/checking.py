"""The command that compares what a study keeps with what lies in its folder: check."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from optuna_mde_studies.commands.opened import KeptStudyArgument, NameOption, is_storage, opened
from optuna_mde_studies.commands.shared import OutOption, quiet, resolve_existing, resolve_folder

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.audit import Finding
    from optuna_mde_studies.runner.folder import StudyFolder


def check(study: KeptStudyArgument, name: NameOption = None, out: OutOption = None) -> None:
    """Says what is missing or damaged of a study, and what that costs."""
    from optuna_mde_studies.runner import audit
    from optuna_mde_studies.runner.trials import num_finished
    from optuna_mde_studies.wording import shown

    quiet()
    if is_storage(study):
        found = opened(study, name, out).study
        trials = f"{found.study_name}: {num_finished(found)} finished trials"
        agrees = f"{trials}, and the files that they name are there"
        _say([*audit.of_program(found)], shown(study), agrees)
        return
    folder = resolve_folder(study, out)
    config = None
    if folder.url is not None and not folder.definition.is_file():
        config = resolve_existing(study, out)[0].config
    _say(*_of_definition(folder, config))


def _of_definition(
    folder: StudyFolder, config: StudyConfig | None
) -> tuple[list[Finding], str, str]:
    from optuna_mde_studies.runner import audit
    from optuna_mde_studies.runner.folder import StudyError, stored_config
    from optuna_mde_studies.runner.identity import open_existing
    from optuna_mde_studies.runner.trials import num_finished
    from optuna_mde_studies.wording import shown

    findings: list[Finding] = []
    kept = None
    agrees = ""
    try:
        config = config or stored_config(folder)
    except StudyError as error:
        cost = "without it nothing is trained, reported or recommended"
        findings.append(audit.Finding(str(folder.definition), str(error), cost))
    try:
        kept = open_existing(folder, config.name if config is not None else None)
    except StudyError as error:
        place = str(folder.database) if folder.url is None else shown(folder.url)
        findings.append(audit.Finding(place, str(error), "all trials are lost"))
    folder.bring(folder.corpus, folder.runs, folder.imported, folder.confirmation)
    if kept is not None:
        findings += audit.audit(folder, kept, config)
        runs = sum(path.is_dir() for path in folder.runs.glob("*"))
        agrees = (
            f"{kept.study_name}: {num_finished(kept)} finished trials, {runs} run folders, corpus "
            "and storage agree"
        )
    return findings, str(folder.path), agrees


def _say(findings: list[Finding], where: str, agrees: str) -> None:
    for finding in findings:
        print(finding)
    lost = sum(finding.is_loss for finding in findings)
    if lost:
        print(f"{where}: {lost} of these are lost", file=sys.stderr)
        raise SystemExit(1)
    print(agrees)
