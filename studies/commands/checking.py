"""The command that compares what a study keeps with what lies in its folder: check."""

from __future__ import annotations

import sys

from optuna_mde_studies.commands.shared import OutOption, StudyArgument, quiet, resolve_folder


def check(study: StudyArgument, out: OutOption = None) -> None:
    """Says what is missing or damaged of a study, and what that costs."""
    from optuna_mde_studies.runner import audit
    from optuna_mde_studies.runner.folder import StudyError, stored_config
    from optuna_mde_studies.runner.identity import open_existing
    from optuna_mde_studies.runner.trials import num_finished

    quiet()
    folder = resolve_folder(study, out)
    findings, config, kept = [], None, None
    try:
        config = stored_config(folder)
    except StudyError as error:
        cost = "without it nothing is trained, reported or recommended"
        findings.append(audit.Finding(str(folder.definition), str(error), cost))
    try:
        kept = open_existing(folder, config.name if config is not None else None)
    except StudyError as error:
        findings.append(audit.Finding(str(folder.database), str(error), "all trials are lost"))
    if kept is not None:
        findings += audit.audit(folder, kept, config)
    for finding in findings:
        print(finding)
    lost = sum(finding.is_loss for finding in findings)
    if lost:
        print(f"{folder.path}: {lost} of these are lost", file=sys.stderr)
        raise SystemExit(1)
    if kept is not None:
        runs = sum(path.is_dir() for path in folder.runs.glob("*"))
        print(
            f"{kept.study_name}: {num_finished(kept)} finished trials, {runs} run folders, corpus "
            "and storage agree"
        )
