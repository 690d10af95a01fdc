"""Damaged and hostile tables: each is taken, or refused in a sentence; nothing else happens."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.exchange.files import Tables, examine, take
from optuna_mde_studies.exchange.recorded import Target, mixture_of
from optuna_mde_studies.exchange.tables import ExchangeError

from optuna_mde import save_logprobs

TABLES = {
    "ratios.csv": "run,web,code\na,1,0\nb,0,1\nc,0.5,0.5\nd,0.25,0.75\n",
    "metrics.csv": "run,papers,faq\na,2,1\nb,3,1.5\nc,2.25,1.25\nd,2.5,\n",
    "runs.csv": (
        "run,tokens,parameters,budget,phase,logprobs,objective,limits,beside\n"
        'a,50,7,0.5,expert,a.safetensors,"{""goals"": [[""mean"", []]], ""limits"": []}",,\n'
        'b,100,7,,natural,,,"{""faq"": ""natural""}",\n'
        "c,100,7,,,,,,\n"
    ),
}
PIECES = [
    *(
        "",
        "nan",
        "-nan",
        "inf",
        "-1",
        "1e999",
        "1e-999",
        "9" * 400,
        "0x10",
        "1_0",
        "½",
        "１",
        "0,5",
        "b" * 90_000,
    ),
    *(
        "\0",
        "\ufeff",
        "\u202e",
        "\ud83d\ude00",
        "a" * 200_000,
        "b" * 90_000,
        "%s%n",
        "../../x",
        "/etc/passwd",
    ),
    *("=cmd()", "{}", "[]", "null", '{"faq": {}}', '{"goals": 1}', "__import__('os')", "!!python"),
    *('"', "'", ";", "\t", "\n", "\r", ",", "run", "web", "mix/web", " ", "\\", "{", "[[", "True"),
]
"""What a cell, a name or a place between may turn into."""


def mutated(text: str, rng: random.Random) -> bytes:
    """A table with one to three wounds."""
    for _ in range(rng.randint(1, 3)):
        kind, piece = rng.randrange(6), rng.choice(PIECES)
        words = text.replace("\n", ",\n,").split(",")
        if kind < 2:
            words[rng.randrange(len(words))] = piece
            text = ",".join(words).replace(",\n,", "\n")
        elif kind == 2:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + piece + text[at:]
        elif kind == 3:
            text = text[: rng.randrange(len(text) + 1)]
        elif kind == 4:
            lines = text.split("\n")
            rng.shuffle(lines)
            text = "\n".join(lines)
        else:
            text = text.replace(",", rng.choice(";\t|"))
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(3) + data[at:]
    return data


@pytest.mark.parametrize("seed", range(4))
def test_a_wounded_table_is_taken_or_refused(seed: int, tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = random.Random(seed)
    save_logprobs(str(tmp_path / "files/a.safetensors"), {"papers": [-2.0] * 9})
    said: list[str] = []
    for _ in range(75):
        for name, text in TABLES.items():
            (tmp_path / name).write_text(text)
        wounded = rng.choice(list(TABLES))
        (tmp_path / wounded).write_bytes(mutated(TABLES[wounded], rng))
        study = optuna.create_study()
        source = Tables(
            tmp_path / "ratios.csv",
            tmp_path / "metrics.csv",
            tmp_path / "runs.csv",
            tmp_path / "files",
        )
        try:
            found = source.read()
            target = Target(study, mixture_of(study, found), None, datetime.now())
            take(study, examine(target, found, source), None)
        except ExchangeError as error:
            said.append(str(error))
            left = study.trials
        else:
            left = []
            assert 1 <= len(study.trials) <= len(found.runs)
            for trial in study.trials:
                assert sum(trial.params.values()) == pytest.approx(1, abs=1e-6)
                url = trial.user_attrs.get("logprobs")
                assert url is None or url.startswith(str(tmp_path))
        assert left == []
    assert len(said) > 20
    assert max(map(len, said)) < 2_000
