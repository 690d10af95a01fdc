"""The contract of a run: what it is to do (`RunSpec`), and what came of it (`RunResult`).

This wing reads and writes text and imports neither torch nor lightning.
"""

from optuna_mde_trainers.spec.files import (
    CHECKPOINT_FILE,
    CHOICES_FILE,
    EVALUATIONS_FOLDER,
    LOCK_FILE,
    LOGPROBS_FILE,
    POINTS_FOLDER,
    RESULT_FILE,
    SCORES_FOLDER,
    SPEC_FILE,
    TOKENIZER_CONFIG_FILE,
    WEIGHTS_FILE,
    DivergedError,
    RunError,
    SpecError,
    explain,
    write_atomic,
)
from optuna_mde_trainers.spec.presets import PRESETS, with_base_width
from optuna_mde_trainers.spec.results import (
    LaterScore,
    Ledger,
    Point,
    Realised,
    RunResult,
    TaskResult,
)
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
    ModelConfig,
    OptimizerConfig,
    ScoreConfig,
    TrainingConfig,
)

__all__ = [
    "CHECKPOINT_FILE",
    "CHOICES_FILE",
    "EVALUATIONS_FOLDER",
    "LOCK_FILE",
    "LOGPROBS_FILE",
    "POINTS_FOLDER",
    "PRESETS",
    "RESULT_FILE",
    "SCORES_FOLDER",
    "SPEC_FILE",
    "SPEC_VERSION",
    "SUM_TOLERANCE",
    "TOKENIZER_CONFIG_FILE",
    "WEIGHTS_FILE",
    "DecoderConfig",
    "DivergedError",
    "KeepWeights",
    "LaterScore",
    "LaunchConfig",
    "LaunchSpec",
    "Ledger",
    "ModelConfig",
    "OptimizerConfig",
    "Point",
    "Realised",
    "RunError",
    "RunResult",
    "RunSpec",
    "ScoreConfig",
    "ScoreSpec",
    "SpecError",
    "TaskResult",
    "TrainingConfig",
    "TrainingSpec",
    "explain",
    "with_base_width",
    "write_atomic",
]
