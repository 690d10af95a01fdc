from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest
import yaml
from optuna_mde_studies.definition import reading
from optuna_mde_studies.report import overview, packing
from optuna_mde_studies.report.page import write
from optuna_mde_studies.wording import copyable
from optuna_mde_trainers.corpus import corpora

from optuna_mde import exclude_trials, recommend, suggest_mixture

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
HOSTILE = (
    "<img src=x onerror=\"document.title='pwned'\">",
    '</script><script>document.title="pwned"</script>',
    "%{x} $body |`*_",
    "Ω & 'quotes'",
)


class Page(HTMLParser):
    """Tables as rows of texts, texts of the elements with an id, and all tags with attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open = ""
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, "")
        self.texts[self._open] += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    @property
    def ids(self) -> set[str | None]:
        return {attrs.get("id") for _, attrs in self.tags}


def unpacked(path: Path) -> str:
    """The page with the tables that it unpacks, as a reader has it."""
    html = path.read_text("utf-8")
    held = re.search(r'<script type="text/plain" id="packed">(.*?)</script>', html)
    assert held is not None
    for key, table in json.loads(packing.unpacked(held[1]))["tables"].items():
        html = html.replace(f'<div id="{key}"></div>', f'<div id="{key}">{table}</div>')
    return html


def rendered(path) -> str:
    """The page's elements after its scripts have run."""
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    return done.stdout


@pytest.fixture(scope="module")
def page(finished, invented, tmp_path_factory):
    study, recommendation = finished
    return write(
        study,
        tmp_path_factory.mktemp("study"),
        recommendation=recommendation,
        confirmation=invented.confirmation(recommendation),
    )


def test_the_page_begins_with_the_answer(finished, page):
    _, recommendation = finished
    read = Page(unpacked(page))
    rates = copyable(recommendation.mixture)
    first = {domain: share for domain, share, _ in read.tables[0][1:]}
    for domain, rate in rates.items():
        shown = first[domain].replace("\u202f%", "")
        assert float(shown) == pytest.approx(100 * rate, abs=0.051)
    copied = yaml.safe_load(read.texts["rates"])
    assert copied == {"mixture": rates}
    assert sum(copied["mixture"].values()) == pytest.approx(1, abs=1e-12)


def test_the_table_has_the_recommendations_numbers(finished, page):
    _, recommendation = finished
    _, *lines = Page(unpacked(page)).tables[1]
    for line, row in zip(lines, recommendation.rows, strict=True):
        name, predicted, interval, observed, trial, _ = line
        assert name.split(" (")[0] == row.name
        assert predicted == f"{row.objective.mean:.4f}"
        assert interval == f"{row.objective.low:.4f} … {row.objective.high:.4f}"
        assert observed == ("" if row.observed is None else f"{row.observed:.4f}")
        assert trial == ("" if row.trial is None else str(row.trial))


def test_cells_of_wide_tables_say_of_which_column_they_are(page):
    """A phone shows them as cards, without the head."""
    read = Page(unpacked(page))
    named = [a["data-column"] for tag, a in read.tags if tag == "td" and "data-column" in a]
    wide = [table for table in read.tables if len(table[0]) > 4]
    heads = [table[0] for table in wide if table[0][0] != "trial" for _ in table[1:]]
    assert named == [title for head in heads for title in head]


def test_every_trial_stands_in_the_tables_with_its_losses(finished, page):
    study, _ = finished
    tables = Page(unpacked(page)).tables
    trials = next(table for table in tables if table[0][:2] == ["trial", "phase"])
    losses = next(table for table in tables if table[0][:2] == ["trial", "python"])
    for trial, line, found in zip(study.trials, trials[1:], losses[1:], strict=True):
        assert line[0] == found[0] == str(trial.number)
        assert f"{trial.value:.3f}" in line
        assert found[1:] == [f"{loss:.3f}" for loss in trial.user_attrs["losses"].values()]


def test_the_confirmation_is_told(finished, invented, page):
    study, recommendation = finished
    objective = overview.read(study).goals
    (differences,) = invented.confirmation(recommendation).differences(objective).values()
    text = unpacked(page).replace("−", "-")
    for difference in differences:
        assert f">{difference.mean:+.3f}<" in text
        assert f"{difference.low:+.3f} to {difference.high:+.3f}" in text


def test_it_is_said_which_seed_the_headline_is_for(finished, invented, page, tmp_path):
    study, recommendation = finished
    text = unpacked(page)
    objective = overview.read(study).goals
    (found,) = invented.confirmation(recommendation).fresh_runs(objective).values()
    assert "training seed that the runs of the search share" in text
    assert f"3 fresh seeds it reached {found.mean:.3f} on average" in text
    assert f"between {found.low:.3f} and {found.high:.3f} (90 %)" in text
    alone = write(study, tmp_path, recommendation=recommendation)
    assert recommendation.on_seeds in unpacked(alone)


def test_rows_that_break_a_limit_are_marked(finished, tmp_path):
    study, recommendation = finished
    first, *others = recommendation.rows
    marked = replace(recommendation, rows=(first, replace(others[0], breaks=("docs",))))
    path = write(study, tmp_path, recommendation=marked)
    names = [line[0] for line in Page(unpacked(path)).tables[1][1:]]
    assert names == ["recommended", "natural (breaks docs)"]


def test_a_confirmation_of_an_earlier_recommendation_is_not_taken_for_this_ones(
    finished, invented, tmp_path
):
    study, recommendation = finished
    kept = invented.confirmation(recommendation)
    earlier = {**kept.mixtures, "recommended": dict.fromkeys(invented.domains, 0.25)}
    path = write(
        study,
        tmp_path,
        recommendation=recommendation,
        confirmation=kept.model_copy(update={"mixtures": earlier}),
    )
    text = unpacked(path)
    assert "They confirm an earlier recommendation, made after 12 trials" in text
    assert "With fresh seeds:" not in text


def test_a_mixture_that_did_not_hold_is_not_recommended(finished, invented, tmp_path):
    study, recommendation = finished
    kept = invented.confirmation(recommendation)
    names = list(kept.mixtures)
    swapped = dict(zip(names, reversed(kept.losses.values()), strict=True))
    path = write(
        study,
        tmp_path,
        recommendation=recommendation,
        confirmation=kept.model_copy(update={"losses": swapped}),
    )
    text = unpacked(path)
    assert "The recommended mixture did not hold" in text
    assert "Train on" not in text


def test_the_page_needs_nothing_but_itself(page):
    read = Page(unpacked(page))
    assert not [attrs for _, attrs in read.tags if "src" in attrs or "href" in attrs]
    policy = next(a["content"] for _, a in read.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_all_figures_are_drawn(page):
    names = {"confirmed", "mixtures", "sets", "effects-0", "map", "search", "foresight", "tried"}
    assert names <= Page(unpacked(page)).ids
    drawn = rendered(page)
    for name in names:
        block = drawn[drawn.index(f'<div id="{name}"') :]
        assert 'class="main-svg"' in block[: block.index("<figcaption>")], name


def test_hostile_names_are_shown_and_do_nothing(invent, tmp_path):
    world = invent(domains=HOSTILE, unseen="<i>unseen</i>")
    study = world.study(study_name='<script>document.title="pwned"</script>')
    recommendation = recommend(study)
    path = write(
        study,
        tmp_path,
        recommendation=recommendation,
        confirmation=world.confirmation(recommendation),
    )
    text = unpacked(path)
    read = Page(text)
    assert read.texts["h1"] == study.study_name
    assert set(yaml.safe_load(read.texts["rates"])["mixture"]) == set(HOSTILE)
    assert {row[0] for row in read.tables[0][1:]} == set(HOSTILE)
    assert not [tag for tag, _ in read.tags if tag in ("img", "i", "b")]
    assert [a.get("type") for tag, a in read.tags if tag == "script"] == 2 * ["text/plain"] + [
        None
    ]
    title = re.search(r"<title>(.*?)</title>", rendered(path))
    assert title is not None
    assert title[1].startswith("&lt;script&gt;")


def test_of_two_mixtures_the_first_is_the_mixture(tmp_path):
    def objective(trial: optuna.Trial) -> float:
        first = suggest_mixture(trial, ["web", "code", "books"], prefix="stage1/")
        second = suggest_mixture(trial, ["web", "math"], prefix="stage2/")
        return (first["web"] - 0.3) ** 2 + (second["math"] - 0.2) ** 2

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=6)
    read = Page(unpacked(write(study, tmp_path)))
    copied = yaml.safe_load(read.texts["rates"])
    assert set(copied["mixture"]) == {"web", "code", "books"}
    assert sum(copied["mixture"].values()) == pytest.approx(1, abs=1e-12)
    assert sum(copied["parameters"].values()) == pytest.approx(1, abs=1e-9)


def test_a_study_that_cannot_be_judged_yet_says_so(tmp_path):
    path = write(optuna.create_study(study_name="new"), tmp_path)
    assert "No recommendation yet" in unpacked(path)


def test_unfinished_and_excluded_trials_say_what_they_are(invent, tmp_path):
    study = invent().study(n_trials=7)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.ask()
    exclude_trials(study, [6], "wrong data")
    path = write(study, tmp_path)
    tables = Page(unpacked(path)).tables
    trials = next(table for table in tables if table[0][:2] == ["trial", "phase"])
    assert [line[4] for line in trials[-3:]] == ["left out", "failed", "running"]


SOURCE = "of its source"


def test_the_corpus_is_described(finished, workplace):
    study, recommendation = finished
    rows = '{"question": "One?", "answer": "yes"}\n{"question": "Two?", "answer": "no"}\n'
    Path("quiz.jsonl").write_text(rows)
    quiz = "{path: json, data_files: quiz.jsonl, prompt: '{question}', target: '{answer}'}"
    settings = [f"corpus.tasks={{quiz: {quiz}}}", "corpus.max_train_bytes=20_000"]
    config = reading.read("tiny.yaml", settings).config
    corpus = corpora.prepare(config.corpus, workplace / "corpus")
    path = write(study, workplace, recommendation=recommendation)
    tables = Page(unpacked(path)).tables
    domains = next(table for table in tables if table[0][1:3] == ["training tokens", SOURCE])
    sets = next(table for table in tables if table[0][:2] == ["validation set", "tokens scored"])
    for line, held in zip(domains[1:], corpus.domains.values(), strict=True):
        assert line[:3] == [held.name, f"{held.tokens:,}", f"{held.source_tokens:,}"]
        assert held.source_tokens > 2 * held.tokens
    kinds = {line[0]: line[2] for line in sets[1:]}
    assert kinds == {"code": "", "prose": "", "numbers": "", "news": "unseen", "quiz": "end task"}
