"""Records the runs of one corpus: a designed set of mixtures, and the experts at several budgets.

    python -m benchmarks.record DEFINITION FOLDER [--pack-only] [--to PACKED]

DEFINITION is a study definition, with a `recording.yaml` beside it that names the mixtures (see
`benchmarks/data/environment`). FOLDER keeps text, corpus and runs; interrupted, the same command
goes on. At the end the table is packed beside the definition, or to PACKED.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.terminal.progress import Progress, console
from optuna_mde_trainers.corpus.corpora import CorpusError

from benchmarks.recording.packing import pack
from benchmarks.recording.runs import open_recorder
from benchmarks.tables import RecordingError


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("definition", type=Path, help="study definition of the runs")
    parser.add_argument("folder", type=Path, help="where text, corpus and runs are kept")
    parser.add_argument(
        "--pack-only", action="store_true", help="pack what is finished, train nothing"
    )
    parser.add_argument("--to", type=Path, help="packed folder (default: the definition's)")
    arguments = parser.parse_args()
    try:
        with Progress(f"recording {arguments.folder}", console()) as progress:
            recorder = open_recorder(str(arguments.definition), arguments.folder, progress)
            if not arguments.pack_only:
                recorder.train(progress)
            progress.stage("packing")
            target = arguments.to or arguments.definition.parent
            packed = pack(recorder, arguments.definition, target)
            progress.line(f"{target}: {len(packed.index)} of {len(recorder.jobs)} runs packed")
    except (DefinitionError, StudyError, CorpusError, RecordingError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")


if __name__ == "__main__":
    main()
