"""The contract of a run: what it is to do (`RunSpec`), and what came of it (`RunResult`).

This wing reads and writes text and imports neither torch nor lightning.
"""

from optuna_mde_trainers.spec.files import (
    CHECKPOINT_FILE,
    CHOICES_FILE,
    LOCK_FILE,
    LOGPROBS_FILE,
    RESULT_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    DivergedError,
    SpecError,
    explain,
    write_atomic,
)
from optuna_mde_trainers.spec.results import Ledger, Point, Realised, RunResult, TaskResult
from optuna_mde_trainers.spec.runs import (
    SPEC_VERSION,
    SUM_TOLERANCE,
    LaunchSpec,
    RunSpec,
    ScoreSpec,
    TrainingSpec,
)
from optuna_mde_trainers.spec.settings import (
    DecoderConfig,
    KeepWeights,
    LaunchConfig,
    OptimizerConfig,
    TrainingConfig,
)

__all__ = [
    "CHECKPOINT_FILE",
    "CHOICES_FILE",
    "LOCK_FILE",
    "LOGPROBS_FILE",
    "RESULT_FILE",
    "SPEC_FILE",
    "SPEC_VERSION",
    "SUM_TOLERANCE",
    "WEIGHTS_FILE",
    "DecoderConfig",
    "DivergedError",
    "KeepWeights",
    "LaunchConfig",
    "LaunchSpec",
    "Ledger",
    "OptimizerConfig",
    "Point",
    "Realised",
    "RunResult",
    "RunSpec",
    "ScoreSpec",
    "SpecError",
    "TaskResult",
    "TrainingConfig",
    "TrainingSpec",
    "explain",
    "write_atomic",
]
