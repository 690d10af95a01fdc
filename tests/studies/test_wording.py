from __future__ import annotations

import pytest
from optuna_mde_studies.wording import amount, copyable, in_words, percent


@pytest.mark.parametrize(
    "rates", [[1 / 3, 1 / 3, 1 / 3], [0.00004, 0.49998, 0.49998], [1.0, 0.0, 1e-16]]
)
def test_copied_rates_sum_to_one(rates):
    copied = copyable({f"d{i}": rate for i, rate in enumerate(rates)})
    assert sum(copied.values()) == pytest.approx(1, abs=1e-12)
    assert all(abs(copied[f"d{i}"] - rate) < 2e-4 for i, rate in enumerate(rates))


def test_a_sentence_names_the_largest_parts():
    assert in_words({"a": 0.25, "b": 0.75, "c": 0.0}).replace("\u202f", " ") == "75 % b and 25 % a"
    many = {f"d{i}": 0.125 for i in range(8)}
    assert in_words(many).endswith("and 3 smaller parts")
    assert percent(1e-16) == "0"


@pytest.mark.parametrize(
    ("number", "said"),
    [(950, "950"), (12_345, "12.3 k"), (4_055_040, "4.06 M"), (7_000_000_000, "7 B")],
)
def test_amounts_have_three_digits(number, said):
    assert amount(number).replace("\u202f", " ") == said
