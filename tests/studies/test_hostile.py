"""Attacks by whoever can write a storage, a run's folder, a checkpoint or a file of ours.

Every attack is a real one: had it worked, a file `PWNED` would lie in the current folder, a server
would have been asked, or the page would hold an element that its author did not write.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import optuna
import pytest
import torch
import yaml
from optuna_mde_studies.commands import reading as commands
from optuna_mde_studies.report import dashboard, overview, packing, page
from optuna_mde_studies.runner import agreement, opening
from optuna_mde_studies.runner.experiment import SPEC_ATTR, Experiment, ForeignSpecError
from optuna_mde_studies.runner.folder import StudyError, StudyFolder, stored_config
from optuna_mde_studies.runner.recovery import settle

from optuna_mde import exclude_trials, recommend, report_losses, suggest_mixture

FOLDER = StudyFolder(Path("runs/tiny"))
ATTACK = "touch PWNED"


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (ATTACK,)


@pytest.fixture
def study(tiny_run, tmp_path, monkeypatch) -> Iterator[optuna.Study]:
    """A copy of a finished study, from which nothing may break out."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield opening.open_study(FOLDER, stored_config(FOLDER))
    assert not Path("PWNED").exists()


def test_the_bomb_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("PWNED").exists()


# --- checkpoints and weights ---------------------------------------------------------------------


PARTS = {"optimizer_states": [], "lr_schedulers": [], "loops": {}, "callbacks": {}}
PARTS |= {"train_losses": torch.zeros(5), "global_step": 5}


def bomb(path: Path) -> None:
    torch.save(PARTS | {"state_dict": {"x": Bomb()}}, path)


def of_another_model(path: Path) -> None:
    torch.save(PARTS | {"state_dict": {"model.x": torch.zeros(3)}}, path)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (bomb, "it holds more than numbers, or is damaged"),
        (lambda path: path.write_bytes(pickle.dumps(Bomb())), "it "),
        (lambda path: path.write_bytes(b"garbage"), "it "),
        (lambda path: path.write_bytes(b""), "it is damaged"),
        (lambda path: torch.save({"epoch": 1}, path), "it "),
        (of_another_model, "it is of another model"),
    ],
)
def test_a_checkpoint_is_not_executed(write, said, study, cli):
    spec = next(FOLDER.runs.glob("*/spec.json"))
    checkpoint = Path("elsewhere", spec.parent.name, "last.ckpt")
    checkpoint.parent.mkdir(parents=True)
    write(checkpoint)
    code, out, err = cli("train", str(spec), "--runs", "elsewhere")
    assert (code, err) == (0, "")
    assert f"run {spec.parent.name} begins afresh, as its checkpoint cannot be gone on" in out
    assert f"({said}" in out
    assert "nats per token" in out


def test_weights_and_what_lies_beside_them_are_not_executed(study, cli):
    run = next(FOLDER.runs.glob("*"))
    kept = {path.name: path.read_bytes() for path in run.glob("*.*")}
    for name, content in (
        ("model.safetensors", pickle.dumps(Bomb())),
        ("model.safetensors", kept["model.safetensors"][:-100]),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b'{"model_max_length": "!!python/object:os.system"}'),
        ("tokenizer.json", pickle.dumps(Bomb())),
        ("spec.json", b"[]"),
        ("result.json", pickle.dumps(Bomb())),
        ("result.json", b'{"losses": {"code": NaN}}'),
    ):
        (run / name).write_bytes(content)
        code, out, err = cli("score", str(run), "--set", "n=news/00.txt", "--validation-tokens=32")
        assert (code, out.count("nats")) == (2, 0), name
        assert name in err
        assert err.count("\n") == 1, err
        (run / name).write_bytes(kept[name])


def test_code_beside_a_model_is_not_imported(tmp_path, monkeypatch):
    from optuna_mde_trainers.training.pretrained import build_pretrained

    monkeypatch.chdir(tmp_path)
    Path("modeling.py").write_text(f"import os\nos.system({ATTACK!r})\nclass Model: ...\n")
    code = {"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.Config"}
    source = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "auto_map": code}
    ends = {"vocab_size": 100, "max_positions": 8, "seed": 0, "end_of_text": None}
    assert type(build_pretrained(source, **ends).net).__name__ == "GPT2LMHeadModel"
    Path("model").mkdir()
    Path("modeling.py").rename("model/modeling.py")
    Path("model/config.json").write_text(json.dumps({**source, "model_type": "unheard-of"}))
    with pytest.raises(ValueError, match="pretrained_config"):
        build_pretrained("model", **ends)
    assert not Path("PWNED").exists()


@pytest.mark.slow
def test_code_beside_weights_is_not_imported_for_an_evaluation(study):
    from optuna_mde_trainers.scoring import harness
    from optuna_mde_trainers.spec import RunError

    run = next(FOLDER.runs.glob("*"))
    (run / "modeling.py").write_text(f"import os\nos.system({ATTACK!r})\nclass Model: ...\n")
    code = {"AutoConfig": "modeling.Model", "AutoModelForCausalLM": "modeling.Model"}
    config = json.loads((run / "config.json").read_text())
    for change in ({"model_type": "unheard-of", "auto_map": code}, 5):
        (run / "config.json").write_text(
            json.dumps(config | change if isinstance(change, dict) else change)
        )
        with pytest.raises(RunError, match="transformers cannot read this checkpoint"):
            harness._model(run, 1, "cpu")
    (run / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    (run / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunError, match="transformers cannot read this checkpoint"):
        harness._model(run, 1, "cpu")


# --- YAML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch PWNED']",
        "!!python/name:os.system",
        "!!python/tuple",
    ],
)
def test_yaml_makes_no_objects(tag, study, cli):
    text = Path("tiny.yaml").read_text()
    Path("bad.yaml").write_text(text.replace("name: tiny", f"name: {tag}"))
    run = str(next(FOLDER.runs.glob("*")))
    for arguments in (
        ("validate", "bad.yaml"),
        ("run", "bad.yaml"),
        ("validate", "tiny.yaml", "--set", f"search.seed={tag}"),
        ("score", run, "--set", f"x={tag}"),
    ):
        code, out, err = cli(*arguments)
        assert (code, out) == (2, ""), arguments
        assert err.count("\n") == 1, err
    FOLDER.definition.write_text(f"name: {tag}")
    assert cli("report", "runs/tiny")[0] == 2
    assert cli("check", "runs/tiny")[0] == 1


# --- storages ------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Notes the paths that it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    asked: list[str] = []
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked = asked  # type: ignore[attr-defined]
    Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize("kind", ["http", "parent", "absolute"])
def test_a_storage_opens_no_file_outside_the_study(kind, study, server, cli, tmp_path):
    outside = tmp_path.parent / "secret.safetensors"
    shutil.copy(FOLDER.path / study.trials[0].user_attrs["logprobs"], outside)
    url = {
        "http": f"http://127.0.0.1:{server.server_port}/secret",
        "parent": "../../../secret.safetensors",
        "absolute": str(outside),
    }[kind]
    for trial in study.trials[:3]:
        attrs = {**trial.user_attrs, "logprobs": url, "run": "../../.."}
        other = copy.deepcopy(trial)
        other.user_attrs = attrs
        study.add_trial(other)
    study.set_user_attr("mde_folder", "/")
    for trial in study.trials[:3]:
        (FOLDER.path / trial.user_attrs["logprobs"]).unlink()
    before = outside.stat().st_atime_ns
    with pytest.warns(UserWarning, match="is not opened, as the study's storage names it"):
        code, out, _ = cli("recommend", "tiny.yaml")
    assert code == 0
    assert "OPTUNA_MDE_ALLOW" in out
    assert cli("report", "tiny.yaml")[0] == 0
    assert outside.stat().st_atime_ns == before
    assert server.asked == []
    assert not list(tmp_path.parent.glob(".mde-coresets*"))


def test_a_storage_chooses_mixtures_and_nothing_else_of_a_run(study):
    experiment = Experiment.open(FOLDER)
    spec = study.trials[4].user_attrs[SPEC_ATTR]
    assert experiment.spec({SPEC_ATTR: spec}).launch == experiment.launch
    command = {"command": ATTACK, "callbacks": [["os.system", {}]], "corpus_folder": "/"}
    assert experiment.spec({SPEC_ATTR: {**spec, "launch": command}}).launch == experiment.launch
    for field, value in (
        ("model", {"pretrained_config": "somebody/elses-model"}),
        ("model", {"hidden_size": 4096}),
        ("max_steps", 10**9),
        ("corpus", "another"),
        ("mixture", {"../../etc": 1.0}),
        ("mixture", {"code": float("nan")}),
        ("mixture", 5),
        ("seed", "x" * 10_000),
    ):
        other = {**spec, "training": {**spec["training"], field: value}}
        with pytest.raises(ForeignSpecError):
            experiment.spec({SPEC_ATTR: other})
    for nothing in (None, 5, "x", [], {}):
        with pytest.raises(ForeignSpecError):
            experiment.spec({SPEC_ATTR: nothing})


def test_a_running_trial_of_another_hand_stops_nobody(study):
    experiment = Experiment.open(FOLDER)
    spec = study.trials[4].user_attrs[SPEC_ATTR]
    spec["training"]["model"]["hidden_size"] = 4096
    for foreign in (spec, 5, {"training": {"mixture": [1]}}):
        study.enqueue_trial({"mix/code": 1.0}, user_attrs={SPEC_ATTR: foreign})
    for _ in range(3):
        study.ask()
    trial = study.ask()
    experiment.propose(trial, study)  # which counts the runs of its mixture
    settled = settle(study, lambda: experiment, lambda running: running.number != trial.number)
    assert len(settled) == 3
    assert [t.state.name for t in study.trials[6:9]] == ["FAIL"] * 3
    assert len(study.trials) == 10  # none is queued again


def test_a_definition_that_is_joined_brings_no_command(cli, study, tmp_path, monkeypatch):
    """The definition that travels in a storage names no program, whatever the storage says."""
    kept = stored_config(FOLDER).model_dump(mode="json", exclude={"storage", "runs"})
    kept["name"] = "theirs"
    kept["launch"] |= {
        "command": f"{ATTACK} {{out}}",
        "callbacks": [["os.system", {"command": ATTACK}]],
        "logger": {"wandb": {}},
        "trainer": {"profiler": "os.system"},
    }
    storage = "sqlite:///theirs.db"
    theirs = optuna.create_study(storage=storage, study_name="theirs")
    theirs.set_user_attr("definition", {"config": kept, "command": False})
    folder = StudyFolder(Path("runs/theirs"), storage)
    launch = agreement.join(folder, "theirs").launch
    assert (launch.command, launch.callbacks, launch.logger, launch.trainer) == (None, [], {}, {})
    for value in (5, {}, {"config": []}, {"config": {**kept, "name": "../../out"}}):
        theirs.set_user_attr("definition", value)
        with pytest.raises(StudyError):
            agreement.join(StudyFolder(Path("runs/other"), storage), "theirs")
    assert not Path("runs/other").exists() or not list(Path("runs/other").iterdir())
    assert not Path("out").exists()


# --- the report and the dashboard ----------------------------------------------------------------

NAMES = (
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><svg onload=alert(1)>",
    "javascript:alert(1)//<a href='javascript:alert(1)'>x</a>",
)


MARKUP = re.compile(r"<(?!/?(b|br|span|i|sup|sub|extra)\b)", re.I)
"""What Plotly takes for markup, but for the tags with which we set type."""


def hostile_study() -> optuna.Study:
    """Whatever a storage can say is markup."""
    study = optuna.create_study(study_name=NAMES[0])
    domains = NAMES[:3]
    for number in range(9):
        rates = [1 / 3] * 3 if number > 3 else [float(i == number) for i in range(3)]
        if sum(rates) == 0:
            rates = [0.2, 0.3, 0.5]
        study.enqueue_trial({f"mix/{d}": r for d, r in zip(domains, rates, strict=True)})
        trial = study.ask()
        suggest_mixture(trial, domains)
        trial.suggest_categorical(NAMES[1], [NAMES[0], "b"])
        for key in ("phase", "error", "run", "spec", "predicted_mean", "accuracy", "interrupted"):
            trial.set_user_attr(key, NAMES[number % 4])
        trial.set_user_attr(NAMES[2], NAMES[3])
        if number == 8:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        losses = {name: 2 + 0.01 * number + rate for name, rate in zip(NAMES, rates, strict=False)}
        study.tell(trial, report_losses(trial, losses))
    exclude_trials(study, [7], NAMES[1])
    for key in ("natural", "corpus", "target_tokens", "source_tokens", "mde_study", "mde_folder"):
        study.set_user_attr(key, NAMES[1])
    study.set_metric_names([NAMES[3]])
    return study


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::optuna.exceptions.ExperimentalWarning")
def test_the_page_holds_no_element_of_another_hand(tmp_path):
    from tests.studies.report.test_page import Page, unpacked

    study = hostile_study()
    run = tmp_path / "runs/x/evaluations"
    run.mkdir(parents=True)
    found = {"results": {NAMES[0]: {f"{NAMES[1]},none": 0.5}}, "n-shot": {NAMES[0]: NAMES[2]}}
    (run / "a.json").write_text(json.dumps(found))
    whole = unpacked(page.write(study, tmp_path, recommendation=recommend(study)))
    shown = Page(whole)
    allowed = {"html", "head", "meta", "title", "style", "script", "body", "main", "header", "p"}
    allowed |= {"h1", "h2", "div", "table", "thead", "tbody", "tr", "td", "th", "span", "button"}
    allowed |= {"pre", "figure", "figcaption", "ul", "li", "b", "dl", "dt", "dd", "section"}
    allowed |= {"details", "summary", "strong", "em", "code", "small", "br", "caption", "noscript"}
    assert {tag for tag, _ in shown.tags} <= allowed
    assert not [a for _, attrs in shown.tags for a in attrs if a.startswith("on") or a == "href"]
    packed = re.search(r'<script type="text/plain" id="packed">(.*?)</script>', whole)
    figures = json.loads(packing.unpacked(packed[1]))["figures"]
    assert not [text for text in strings(figures) if MARKUP.search(text)]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::optuna.exceptions.ExperimentalWarning")
def test_what_the_dashboard_shows_is_text(tmp_path):
    from optuna_dashboard import get_note
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    study = hostile_study()
    dashboard.publish(study)
    note = get_note(study)
    for raw in ("<script", "<img", "</script", "<svg", "<a "):
        assert not re.search(rf"(?<!\\){re.escape(raw)}", note), raw
    attrs = study._storage.get_study_system_attrs(study._study_id)
    figures = [json.loads(text) for text in get_plotly_graph_objects(attrs).values()]
    assert len(figures) >= 3
    assert not [text for text in strings(figures) if MARKUP.search(text)]


def test_the_dashboard_listens_to_this_machine_alone():
    import inspect

    for listens in (dashboard.serve, commands.dashboard):
        assert inspect.signature(listens).parameters["host"].default == "127.0.0.1"


def test_an_overview_of_strange_attributes_is_read():
    found = overview.read(hostile_study())
    assert len(found.runs) == 9
    assert found.natural == {}
    assert yaml.safe_dump(found.domains)
