"""CSV files as people and tools write them, and what cannot be taken for runs."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from optuna_mde_studies.exchange import tables
from optuna_mde_studies.exchange.runs import TableRuns, joined
from optuna_mde_studies.exchange.tables import ExchangeError

RATIOS = "run,web,code,books\na,1,0,0\nb,0.5,0.3,0.2\nc,0.25,0.25,0.5\n"
METRICS = "run,papers,code\na,3.31,2.80\nb,3.05,1.71\nc,2.93,1.62\n"
RATES = {
    "a": {"web": 1.0, "code": 0.0, "books": 0.0},
    "b": {"web": 0.5, "code": 0.3, "books": 0.2},
    "c": {"web": 0.25, "code": 0.25, "books": 0.5},
}
LOSSES = {
    "a": {"papers": 3.31, "code": 2.80},
    "b": {"papers": 3.05, "code": 1.71},
    "c": {"papers": 2.93, "code": 1.62},
}


@pytest.fixture
def read(tmp_path: Path):
    """The runs of two tables given as text (or bytes)."""

    def read(ratios: str | bytes = RATIOS, metrics: str | bytes = METRICS) -> TableRuns:
        paths = [tmp_path / "ratios.csv", tmp_path / "metrics.csv"]
        for path, text in zip(paths, (ratios, metrics), strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return joined(*map(tables.read, paths))

    return read


def rates(found: TableRuns) -> dict[str, dict[str, float]]:
    return {run.name: run.mixture for run in found.runs}


def test_two_tables_are_joined_by_run(read):
    shuffled = "run,papers,code\nc,2.93,1.62\na,3.31,2.80\nb,3.05,1.71\n"
    for metrics in (METRICS, shuffled):
        found = read(metrics=metrics)
        assert rates(found) == RATES
        assert {run.name: run.losses for run in found.runs} == LOSSES
        assert (found.domains, found.sets) == (("web", "code", "books"), ("papers", "code"))
        assert found.remarks == ()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + RATIOS,
        RATIOS.replace("\n", "\r\n"),
        RATIOS.replace(",", ";"),
        RATIOS.replace(",", "\t"),
        RATIOS.replace(",", ";").replace(".", ","),
        RATIOS.replace(",", ", ").replace("\n", " \n"),
        RATIOS + "\n,,,\n",
        RATIOS.replace("run", '"run"'),
        RATIOS.replace("run", "run_id"),
        ",run,name,web,code,books\n0,a,x,1,0,0\n1,b,y,.5,.3,.2\n2,c,z,.25,.25,.5\n",
        "run,name,index,web,code,books\na,s-0,0,1,0,0\nb,s-1,1,5e-1,.3,.2\nc,s-2,2,.25,.25,.5\n",
    ],
)
def test_dialects_of_spreadsheets_pandas_and_olmix(read, text: str):
    found = read(text)
    assert rates(found) == RATES
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("run,web,code,books\na,100,0,0\nb,50,30,20\nc,25,25,50\n", "percent"),
        ("run,web,code,books\na,4000,0,0\nb,50,30,20\nc,1,1,2\n", "token counts"),
        ("run,web,code,books\na,1e308,0,0\nb,5e307,3e307,2e307\nc,1,1,2\n", "token counts"),
        (
            "run,web,code,books\na,1.01,0,0\nb,.5,.3,.2\nc,.25,.25,.5\n",
            "1 run miss 1 by up to 0.01",
        ),
    ],
)
def test_other_units_become_rates_with_a_word(read, text: str, word: str):
    found = read(text)
    for name, mixture in rates(found).items():
        assert mixture == pytest.approx(RATES[name])
        assert math.fsum(mixture.values()) == pytest.approx(1, abs=1e-12)
    (remark,) = found.remarks
    assert word in remark


def test_regmix_names_lose_what_all_share(read):
    found = read(
        "index,train_the_pile_arxiv,train_the_pile_github\n1,0.25,0.75\n2,0.501,0.5\n",
        "index,metric/the_pile_arxiv_val_loss,metric/the_pile_cc_val_loss\n1,7.5,5\n2,6,4\n",
    )
    assert found.domains == ("the_pile_arxiv", "the_pile_github")
    assert found.sets == ("the_pile_arxiv", "the_pile_cc")
    assert any("names are taken as" in remark for remark in found.remarks)


def test_missing_runs_and_cells_and_strange_columns_are_named(read):
    found = read(
        RATIOS.replace("books\n", "books,group\n")
        .replace("\na,", "\nx,.5,.5,0,g\na,")
        .replace("0,0\n", "0,0,g\n")
        .replace("0.2\n", "0.2,g\n")
        .replace("0.5\n", "0.5,h\n"),
        METRICS.replace("1.71", "NaN") + "z,1,1\n",
    )
    assert rates(found) == RATES
    assert found.runs[1].losses == {"papers": 3.05}
    said = "\n".join(found.remarks)
    assert "'group' holds no numbers and is left out" in said
    assert "1 cell empty or NaN" in said
    assert "ratios.csv left out, not in" in said
    assert "metrics.csv left out, not in" in said


@pytest.mark.parametrize(
    ("ratios", "metrics", "words"),
    [
        (RATIOS.replace("0.2\n", "0.1\n"), METRICS, "line 3 (run b): rates sum to 0.9, not 1"),
        (RATIOS.replace("0.2\n", "\n"), METRICS, "line 3 (run b): books = '' is no rate"),
        (RATIOS.replace("0.2\n", "nan\n"), METRICS, "books = 'nan' is no rate"),
        (RATIOS.replace("0.2\n", "-0.2\n"), METRICS, "books = '-0.2' is no rate"),
        (RATIOS.replace("0.2\n", "inf\n"), METRICS, "books = 'inf' is no rate"),
        (RATIOS.replace("0.2\n", "=1-0.8\n"), METRICS, "books = '=1-0.8' is no number"),
        (RATIOS.replace("0.2\n", "0.2,7\n"), METRICS, "line 3: 5 cells, and the header has 4"),
        (RATIOS + "b,1,0,0\n", METRICS, "run b is there twice, in lines 3 and 5"),
        (RATIOS.replace("books", "web"), METRICS, "'web' is there twice in the header"),
        (RATIOS.replace("run", "trial"), METRICS, "no column 'run'"),
        (RATIOS.replace("\nb,", "\n,"), METRICS, "line 3: the column 'run' is empty"),
        ("run,web,code\na,0,0\nb,4,4\nc,2,2\n", METRICS, "line 2 (run a): rates sum to 0"),
        ("run,web\na,1\nb,1\nc,1\n", METRICS, "two domains"),
        (RATIOS, METRICS.replace("3.05", "oops"), "papers = 'oops' is no number"),
        (RATIOS, METRICS.replace("3.05,1.71", ","), "(run b): has no loss at all"),
        (RATIOS, "run,papers\nx,1\n", "no run in common"),
        (RATIOS, "run,text\na,x\nb,y\nc,z\n", "no column with losses"),
        (RATIOS, "run,papers\n", "holds no run"),
        (RATIOS, "", "holds no run"),
        (RATIOS, 'run,papers\na,"1\n', "no CSV"),
        (RATIOS, METRICS.encode("utf-16"), "is not UTF-8; save it as CSV in UTF-8"),
        (RATIOS, METRICS.encode() + b"\0\0", "NUL bytes"),
        (RATIOS, b"\x89PNG\xff\xfe", "is not UTF-8"),
    ],
)
def test_what_is_no_table_of_runs_is_named_with_its_place(read, ratios, metrics, words: str):
    with pytest.raises(ExchangeError, match=r"(ratios|metrics)\.csv") as raised:
        read(ratios, metrics)
    assert words in str(raised.value)


def test_many_wrong_rows_are_counted(read):
    rows = "".join(f"r{i},0.5,0.5,{0.5 if i % 3 == 0 else 0}\n" for i in range(30))
    losses = "".join(f"r{i},1,2\n" for i in range(30))
    with pytest.raises(ExchangeError) as raised:
        read("run,web,code,books\n" + rows, "run,papers,code\n" + losses)
    text = str(raised.value)
    assert "line 2 (run r0): rates sum to 1.5" in text
    assert "and 7 more like these" in text


def test_a_missing_file_is_one_sentence(tmp_path: Path):
    with pytest.raises(ExchangeError, match=r"no\.csv: cannot be read \(No such file"):
        tables.read(tmp_path / "no.csv")


def test_floats_and_names_come_back(tmp_path: Path):
    path = tmp_path / "t.csv"
    values = [0.1, 1 / 3, 1e-300, 5e-324, math.nextafter(1, 2)]
    names = ["ä,b", 'quo"te', "line\nbreak", "=cmd()", "日本"]
    tables.write(path, ["run", *names], [["x", *values]])
    found = tables.read(path)
    assert found.columns == tuple(names)
    assert [tables.number(cell) for cell in found.rows[0].cells.values()] == values
    with path.open(newline="", encoding="utf-8") as stream:
        assert next(csv.reader(stream)) == ["run", *names]
