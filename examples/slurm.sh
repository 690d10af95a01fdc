#!/bin/bash
#SBATCH --job-name=mixture
#SBATCH --array=0-7
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
# Eight jobs of a Slurm array that join one study: each asks for mixtures, trains them and reports
# the losses until the study has enough. STORAGE is a database that all nodes reach, and the current
# folder, in which experts are kept, one that all nodes share. For GPUs add `#SBATCH --gpus-per-task=1`.
#
#   export STORAGE=postgresql+psycopg://me@db.example.org/optuna
#   optuna create-study --storage "$STORAGE" --study-name own --skip-if-exists
#   sbatch examples/slurm.sh
#
# The study is created first, because jobs that make the tables of an empty database at the same
# moment get into each other's way. A job that Slurm ends loses its run; another one notices by the
# study's heartbeat, and tries the mixture again.
#
# For a study of a definition, put `exec optuna-mde work my.yaml --storage "$STORAGE"` in the place of the
# last line, and run `optuna-mde run` with the same arguments once more at the end, which confirms.
set -euo pipefail

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
exec python examples/own_trainer.py --storage "$STORAGE" --study own --n-trials "${N_TRIALS:-40}"
