"""Folders of two machines and what they share at a URL: a real S3 server, and a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from optuna_mde_studies.runner.sharing import mirror as room
from optuna_mde_studies.runner.sharing import patience
from optuna_mde_studies.runner.sharing.mirror import Mirror, RemoteError

from tests.servers import s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server("bucket"):
        yield "s3://bucket/runs"


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/shared"
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


@pytest.fixture
def machines(tmp_path: Path, url: str) -> tuple[Mirror, Mirror]:
    return Mirror(url, tmp_path / "one"), Mirror(url, tmp_path / "two")


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are moved, in either direction, in their order."""
    found: list[str] = []
    note = Mirror._note

    def counted(self: Mirror, name: str, state: list[int], version: str) -> None:
        found.append(Path(name).name)
        note(self, name, state, version)

    monkeypatch.setattr(Mirror, "_note", counted)
    return found


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(path.suffix or ".json").write_text(text)


def read(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_text() for name, path in names.items() if not name.startswith(".")}


def test_files_come_over_once_and_again_where_they_have_changed(machines, moved):
    one, two = machines
    write(one.folder, runs__a__spec="spec", runs__a__result="1", runs__b__result="2")
    one.push("runs")
    two.pull("runs")
    assert read(two.folder) == read(one.folder)
    moved.clear()
    one.push("runs")
    two.pull("runs")
    two.push("runs")
    assert moved == []
    write(two.folder, runs__a__result="another")
    two.push("runs")
    one.pull("runs/a/result.json")
    assert (one.folder / "runs/a/result.json").read_text() == "another"
    assert moved == ["result.json"] * 2


def test_the_file_that_makes_a_folder_whole_is_moved_last(machines, moved):
    one, two = machines
    write(one.folder, runs__a__a="1", runs__a__result="2", runs__a__z="3", runs__a__x__y="4")
    one.push("runs/a")
    assert moved[-1] == "result.json"
    moved.clear()
    two.pull("runs/a")
    assert moved[-1] == "result.json"


def test_only_what_is_wanted_comes_and_what_is_hidden_stays(machines):
    one, two = machines
    write(one.folder, runs__a__result="1", runs__a__weights="2", confirm="3")
    for name in ("runs/a/.partial", "runs/a/run.lock", "runs/a/last.part"):
        (one.folder / name).write_text("mine")
    (one.folder / "runs/a/link").symlink_to("/etc/hostname")
    one.push("runs", "confirm.json")
    two.pull("runs", "confirm.json", "imported", only=lambda name: "weights" not in name)
    assert read(two.folder) == {"runs/a/result.json": "1", "confirm.json": "3"}
    two.pull("runs")
    assert sorted(read(two.folder)) == [
        "confirm.json",
        "runs/a/result.json",
        "runs/a/weights.json",
    ]


def test_a_checkpoint_that_is_gone_goes_there_too(machines):
    one, two = machines
    write(one.folder, runs__a__last="checkpoint", runs__a__spec="spec")
    one.push("runs/a")
    two.pull("runs/a")
    (two.folder / "runs/a/last.json").unlink()
    write(two.folder, runs__a__result="1")
    two.push("runs/a", removes=True)
    third = Mirror(one.url, one.folder.parent / "three")
    third.pull("runs")
    assert sorted(read(third.folder)) == ["runs/a/result.json", "runs/a/spec.json"]


def test_what_is_written_meanwhile_is_brought_there_when_it_rests(machines, monkeypatch):
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(room, "REST_SECONDS", 0.3)
    one, two = machines
    write(one.folder, runs__a__result="not yet")
    with one.following("runs/a"):
        for step in range(3):
            write(one.folder, runs__a__last=str(step))
            end = time.monotonic() + 10
            while read(two.folder) != {"runs/a/last.json": str(step)}:
                assert time.monotonic() < end
                time.sleep(0.05)
                two.pull("runs")
    assert threading.active_count() < 50


@pytest.mark.parametrize("name", ["runs/../../out", "runs/.ssh/key", "runs/a\\..\\b"])
def test_no_name_there_leads_out_of_the_folder(tmp_path, s3, name):
    remote = f"{s3}/{tmp_path.name}"
    with fsspec.open(f"{remote}/runs/fine.json", "w") as stream:
        stream.write("fine")
    files, root = fsspec.core.url_to_fs(remote)
    bucket, _, prefix = root.partition("/")
    files.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{name}", Body=b"payload")
    Mirror(remote, tmp_path / "here").pull("runs")
    assert read(tmp_path / "here") == {"runs/fine.json": "fine"}
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_an_outage_is_waited_for_and_told(machines, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    said: list[str] = []
    one, two = machines
    write(one.folder, runs__a__result="1")
    one.push("runs")
    system = type(fsspec.core.url_to_fs(one.url)[0])
    left = iter([OSError("no route to host")] * 3)
    find = system.find

    def away(self, *arguments, **named):
        for error in left:
            raise error
        return find(self, *arguments, **named)

    monkeypatch.setattr(system, "find", away)
    Mirror(two.url, two.folder, said.append).pull("runs")
    assert read(two.folder) == {"runs/a/result.json": "1"}
    assert said == [
        f"{one.url} does not answer (no route to host); waiting",
        f"{one.url} answers again",
    ]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("nowhere://bucket/runs", "Protocol not known: nowhere"),
        ("s3://no-such-bucket/runs", "The specified bucket does not exist"),
        ("file:///proc/runs", "[Errno 2]"),
    ],
)
def test_a_url_that_cannot_be_written_is_named_at_once(s3, tmp_path, wrong, reason):
    with pytest.raises(RemoteError) as caught:
        Mirror(wrong, tmp_path).try_out()
    assert str(caught.value).startswith(f"{wrong}: {reason}")


def test_trying_out_leaves_nothing(machines: tuple[Mirror, Mirror], url: str) -> None:
    machines[0].try_out()
    files, root = fsspec.core.url_to_fs(url)
    assert not files.find(root)
    assert not machines[0].folder.exists()
