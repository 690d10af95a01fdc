"""Definitions: what is read, and what is said of every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.reading import DefinitionError

VALID = """\
name: tiny
corpus:
  domains:
    code: {path: text, data_files: code.txt}
    books: {path: text, data_files: books.txt}
    web: {path: text, data_files: web.txt}
  validation:
    news: {path: text, data_files: news.txt}
  tokenizer: {type: bytes}
objective: {books: 2, news: 1}
search:
  n_trials: 8
  seed: 1
model: {hidden_size: 32}
optimizer: {lr: 3e-3}
training:
  max_steps: 10
  global_batch_size: 4
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes `study.yaml` in the current folder, with one piece of the valid text replaced."""
    monkeypatch.chdir(tmp_path)

    def write(old: str = "", new: str = "") -> str:
        assert old in VALID
        (tmp_path / "study.yaml").write_text(VALID.replace(old, new, 1), encoding="utf-8")
        return "study.yaml"

    return write


def test_a_definition_is_read_with_its_defaults(write):
    config = reading.read(write()).config
    assert config.domains == ("code", "books", "web")
    assert config.optimizer.lr == 0.003  # YAML reads 3e-3 as text
    assert config.launch.workers == "auto"
    assert config.confirm.seeds == 3
    assert (config.experts.budget, config.experts.max_epochs) == (0.5, 4)
    assert config.goals.values({"books": 3.0, "news": 6.0}) == pytest.approx((4.0,))


def test_every_shipped_definition_is_valid_and_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "demo" in reading.shipped()
    for name in reading.shipped():
        assert reading.read(name).config.name == name


def test_overrides_are_applied_before_the_checks(write):
    config = reading.read(
        write(), ["training.max_steps=20", "launch.workers=2", "search.bounds.web=[0, 0.4]"]
    ).config
    assert config.training.max_steps == 20
    assert config.launch.workers == 2
    assert config.search.bounds == {"web": (0.0, 0.4)}


MISTAKES = {
    "unknown key, misspelt": (
        "max_steps: 10",
        "max_step: 10",
        "study.yaml:17: training.max_step: unknown key; did you mean `max_steps`?",
    ),
    "unknown key of another section": (
        "name: tiny",
        "name: tiny\nn_trials: 8",
        "study.yaml:2: n_trials: unknown key; did you mean `search.n_trials`?",
    ),
    "unknown key inside a domain": (
        "data_files: web.txt",
        "data_file: web.txt",
        "study.yaml:6: corpus.domains.web.data_file: unknown key; did you mean `data_files`?",
    ),
    "missing field": (
        "  max_steps: 10\n",
        "",
        "study.yaml:16: training.max_steps: missing; add it",
    ),
    "missing section": ("name: tiny\n", "", "study.yaml: name: missing; add it"),
    "number too small": (
        "max_steps: 10",
        "max_steps: -2",
        "study.yaml:17: training.max_steps: input should be greater than or equal to 1 (got -2)",
    ),
    "no number": (
        "lr: 3e-3",
        "lr: fast",
        "study.yaml:15: optimizer.lr: input should be a valid number, unable to parse string as "
        "a number (got 'fast')",
    ),
    "infinite": (
        "lr: 3e-3",
        "lr: .inf",
        "study.yaml:15: optimizer.lr: a number of finite size is needed (got inf)",
    ),
    "expert longer than a run": (
        "model:",
        "experts: {budget: 2}\nmodel:",
        "study.yaml:14: experts.budget: input should be less than or equal to 1 (got 2)",
    ),
    "expert that trains nothing": (
        "model:",
        "experts: {budget: 0, max_epochs: 0}\nmodel:",
        "study.yaml:14: experts.budget: input should be greater than 0 (got 0)\n"
        "study.yaml:14: experts.max_epochs: input should be greater than 0 (got 0)",
    ),
    "a seed that nothing can be paired with": (
        "model:",
        "confirm: {seeds: 1}\nmodel:",
        "study.yaml:14: confirm.seeds: 2 fresh seeds at least tell a difference from noise; take "
        "2 or more, or 0 for no confirmation (got 1)",
    ),
    "number in the place of a section": (
        "model:",
        "experts: 0.5\nmodel:",
        "study.yaml:14: experts: fields of its own are needed, `{field: value}`; known here: "
        "budget, max_epochs (got 0.5)",
    ),
    "number in the place of a pair": (
        "  seed: 1",
        "  bounds: {web: 0.3}",
        "study.yaml:13: search.bounds.web: a list of two is needed, `[first, second]` (got 0.3)",
    ),
    "list in the place of names": (
        "  seed: 1",
        "  natural: [0.5, 0.5]",
        "study.yaml:13: search.natural: names with values are needed, `{name: value}` "
        "(got [0.5, 0.5])",
    ),
    "one of two kinds": (
        "model:",
        "launch: {workers: many}\nmodel:",
        "study.yaml:14: launch.workers: a whole number is needed (1000 or 1_000, not 1e3), or "
        "input should be 'auto' (got 'many')",
    ),
    "name that is no folder": (
        "name: tiny",
        "name: a/b",
        "study.yaml:1: name: a name has letters a to z, digits, `_`, `.` and `-`, the first one a "
        "letter or digit; 'a/b' has others",
    ),
    "domain of nothing": (
        "web: {path: text, data_files: web.txt}",
        "web: {}",
        "study.yaml:6: corpus.domains.web: give either environment (a built-in collection) or "
        "path (a dataset, or json, parquet, text with data_files)",
    ),
    "objective over a missing domain": (
        "{books: 2, news: 1}",
        "{books: 2, nws: 1}",
        "study.yaml:10: objective.nws: no validation set is called 'nws'; there are code, books, "
        "web, news",
    ),
    "negative weight": (
        "{books: 2, news: 1}",
        "{books: -2}",
        "study.yaml:10: objective: the weight of 'books' must be a number of at least 0, got -2",
    ),
    "bounds of a missing domain": (
        "  seed: 1",
        "  bounds: {wbe: [0, 0.5]}",
        "study.yaml:13: search.bounds.wbe: no domain is called 'wbe'; there are code, books, web",
    ),
    "bounds the wrong way round": (
        "  seed: 1",
        "  bounds: {web: [0.6, 0.5]}",
        "study.yaml:13: search.bounds.web: the lowest rate 0.6 is above the highest 0.5; "
        "swap them",
    ),
    "bound that is no rate": (
        "  seed: 1",
        "  bounds: {web: [0, 5]}",
        "study.yaml:13: search.bounds.web.1: input should be less than or equal to 1 (got 5)",
    ),
    "caps that leave less than 1": (
        "  seed: 1",
        "  bounds: {code: [0, 0.3], books: [0, 0.2], web: [0, 0.4]}",
        "study.yaml:13: search.bounds: upper bounds add up to 0.3 (code) + 0.2 (books) + 0.4 "
        "(web) = 0.9 < 1, so that no mixture meets them; raise some of them",
    ),
    "lower bounds above 1": (
        "  seed: 1",
        "  bounds: {code: [0.5, 1], books: [0.7, 1]}",
        "study.yaml:13: search.bounds: lower bounds add up to 0.5 (code) + 0.7 (books) + 0 (web) "
        "= 1.2 > 1, so that no mixture meets them; lower some of them",
    ),
    "natural rates beside 1": (
        "  seed: 1",
        "  natural: {code: 0.5, books: 0.5, web: 0.25}",
        "study.yaml:13: search.natural: rates must sum to 1, and 0.5 + 0.5 + 0.25 = 1.25; "
        "divide each by 1.25",
    ),
    "natural without a domain": (
        "  seed: 1",
        "  natural: {code: 0.5, book: 0.5}",
        "study.yaml:13: search.natural: no rate for books, web and no domain is called book; "
        "name every domain once",
    ),
    "too few trials": (
        "n_trials: 8",
        "n_trials: 3",
        "study.yaml:12: search.n_trials: 3 trials leave nothing to search, because 3 domains "
        "need an expert each first; take at least 5",
    ),
    "batch that cannot be cut": (
        "global_batch_size: 4",
        "global_batch_size: 4\n  micro_batch_size: 3",
        "study.yaml:16: training: global_batch_size (4) must be a multiple of micro_batch_size "
        "(3)",
    ),
    "a key twice": (
        "  seed: 1",
        "  n_trials: 9",
        "study.yaml:13: search.n_trials: written twice; keep one",
    ),
    "no YAML": (
        "name: tiny",
        "name: [tiny",
        "study.yaml:2: not valid YAML: expected ',' or ']', but got ':'",
    ),
}


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence_with_its_place_and_mend(write, old, new, said):
    with pytest.raises(DefinitionError) as caught:
        reading.read(write(old, new))
    assert str(caught.value) == said


def test_points_need_all_weights_on_each_device(write):
    with pytest.raises(DefinitionError, match=r"score\.at: all weights .* fsdp; take ddp"):
        reading.read(write(), ["score.at=[0.5]", "launch.strategy=fsdp", "launch.devices=2"])


def test_all_mistakes_are_said_at_once(write):
    with pytest.raises(DefinitionError) as caught:
        reading.read(write("max_steps: 10\n  global_batch_size: 4", "max_steps: x\n  gbs: 4"))
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    assert {line.split(": ")[1] for line in lines} == {
        "training.max_steps",
        "training.gbs",
        "training.global_batch_size",
    }


@pytest.mark.parametrize(
    ("overrides", "fields"),
    [
        (
            ("training.max_steps=x", "objective={moon: 1}", "search.bounds={sun: [0, 1]}"),
            {"training.max_steps", "objective.moon", "search.bounds.sun"},
        ),
        (  # the wrong sources have names, and no others are missing
            ("corpus.domains.code={paht: text}", "corpus.validation.news=5", "optimizer.lr=fast"),
            {"corpus.domains.code.paht", "corpus.validation.news", "optimizer.lr"},
        ),
        (  # what depends on something wrong is left until that is mended
            ("corpus.domains=5", "search.natural={code: 1}", "launch.workers=none"),
            {"corpus.domains", "launch.workers"},
        ),
        (
            ("search={}", "score.at=[0.5, x]", "confirm.seeds=1", "target={tokens: 1}"),
            {"search.n_trials", "score.at.1", "confirm.seeds", "target.tokens"},
        ),
    ],
)
def test_what_does_not_agree_is_said_beside_what_is_wrong_by_itself(write, overrides, fields):
    with pytest.raises(DefinitionError) as caught:
        reading.read(write(), overrides)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(fields), lines
    for field in fields:
        assert any(f": {field}: " in line for line in lines), (field, lines)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.max_steps", "write `field=value`, such as `training.max_steps=200`"),
        ("name.first=tiny", "name has no fields"),
        ("training.max_steps=0", "training.max_steps: input should be greater than or equal to 1"),
        ("trainin.max_steps=3", "trainin: unknown key; did you mean `training`?"),
        ("search.bounds=[", "the value is not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(write, override, said):
    with pytest.raises(DefinitionError) as caught:
        reading.read(write(), [override])
    assert f"--set {override}: {said}" in str(caught.value)


def test_a_definition_that_is_not_there(write, tmp_path):
    with pytest.raises(DefinitionError, match=r"^nope\.yaml: no such definition; .*demo"):
        reading.read("nope.yaml")
    with pytest.raises(DefinitionError, match="the shipped one runs by its name alone: `demo`"):
        reading.read("studies/demo.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(DefinitionError, match=r"latin\.yaml: cannot be read as UTF-8"):
        reading.read("latin.yaml")
    (tmp_path / "list.yaml").write_text("- name", encoding="utf-8")
    with pytest.raises(DefinitionError, match=r"list\.yaml:1: a definition is a mapping"):
        reading.read("list.yaml")


def test_no_password_of_an_override_is_shown(write):
    override = "warm_start=postgresql://me:secret@host/db"
    with pytest.raises(DefinitionError, match=r"me:\*\*\*@host") as refused:
        reading.read(write(), [override])
    assert "secret" not in str(refused.value)
