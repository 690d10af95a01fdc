"""A study of an objective that costs nothing: the example of the README."""

import optuna

from optuna_mde import MDESampler, recommend, report_losses, suggest_mixture


def objective(trial):
    mixture = suggest_mixture(trial, ["web", "code", "books"])  # {"web": 0.61, "code": …}
    losses = {
        "books": 3 - mixture["books"] ** 0.5,
        "code": 2 - mixture["code"] ** 0.3,
    }  # train here
    return report_losses(trial, losses)


study = optuna.create_study(sampler=MDESampler(seed=0))
study.optimize(objective, n_trials=25)
print(recommend(study))
