from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest
from optuna_mde_trainers.corpus.builtin import environment, packages
from optuna_mde_trainers.corpus.builtin.environment import (
    COLLECTIONS,
    MAX_FILE_BYTES,
    Document,
    PydocTopics,
    Readmes,
    Tree,
    calls_itself_generated,
    cut,
    docstrings,
    inventory,
)


@cache
def documents(collection: str) -> list[Document]:
    return environment.documents(collection)


def num_bytes(found: list[Document]) -> int:
    return sum(len(document.text.encode()) for document in found)


# -- collections of this environment -------------------------------------------------------


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_collection_fills_a_domain_with_named_capped_files(collection: str) -> None:
    found = documents(collection)
    names = [document.name for document in found]
    assert num_bytes(found) > 1_000_000
    assert len(found) > 50
    assert len(set(names)) == len(names)
    assert not any(Path(name).is_absolute() or ".." in name for name in names)
    assert max(len(document.text.encode()) for document in found) <= MAX_FILE_BYTES


def test_files_that_call_themselves_generated_are_boilerplate_only() -> None:
    for collection in ("python", "cpp", "cython", "pyi"):
        assert not any(calls_itself_generated(d.text) for d in documents(collection))
    share = [calls_itself_generated(document.text) for document in documents("boilerplate")]
    assert sum(share) > 0.5 * len(share)


def test_cpp_and_boilerplate_are_apart() -> None:
    cpp = {document.name for document in documents("cpp")}
    assert cpp.isdisjoint(document.name for document in documents("boilerplate"))
    assert not any("/ATen/ops/" in name for name in cpp)


def test_python_is_the_standard_library_without_tests() -> None:
    names = {document.name for document in documents("python")}
    assert "stdlib/argparse.py" in names
    assert "stdlib/asyncio/events.py" in names
    assert not any("/test/" in name or "site-packages" in name for name in names)


def test_prose_holds_readmes_licences_and_the_language_reference() -> None:
    names = {document.name for document in documents("prose")}
    assert "optuna/description" in names
    assert "pydoc/if" in names
    assert any("LICENSE" in name for name in names)


@pytest.mark.parametrize(
    ("collection", "missing"),
    [
        ("python", {"stdlib"}),
        ("cpp", {"torch"}),
        ("docs", {"scipy", "scikit-learn", "pandas"}),
        ("boilerplate", {"torch"}),
        ("mathdocs", {"sympy"}),
        ("cython", {"scikit-learn"}),
    ],
)
def test_stand_ins_fill_a_collection_without_its_first_packages(
    collection: str, missing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = environment.package_folder
    monkeypatch.setattr(
        environment, "package_folder", lambda name: None if name in missing else find(name)
    )
    found = environment.documents(collection)
    assert num_bytes(found) > 1_000_000
    assert missing.isdisjoint(document.name.split("/")[0] for document in found)


def test_prose_without_records_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata.PathDistribution, "files", None)
    found = environment.documents("prose")
    assert num_bytes(found) > 1_000_000
    assert not any("licenses/" in document.name for document in found)


def test_prose_when_the_project_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "required_distributions", lambda: [])
    files = list(Readmes(packages.other_distributions).files())
    assert {"optuna", "torch", "pytest"} <= {file.package for file in files}


# -- inventories ---------------------------------------------------------------------------


def test_an_inventory_names_versions_and_is_the_same_in_another_process() -> None:
    code = (
        "from optuna_mde_trainers.corpus.builtin.environment import inventory, documents\n"
        "import hashlib\n"
        "texts = ''.join(d.name + d.text for d in documents('cython'))\n"
        "print(inventory('cython'), hashlib.sha256(texts.encode()).hexdigest())\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert str(inventory("cython")) in outputs.pop()
    assert inventory("cython")["scikit-learn"].startswith(
        importlib.metadata.version("scikit-learn")
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of an installed package `some_package` of a distribution `some-package`."""
    record = tmp_path / "some_package-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n\n# A README\n\nWith a body.\n"
    )
    (record / "LICENSE").write_text("You may do anything.\n")
    (record / "RECORD").write_text(
        "some_package/a.py,,\nsome_package-1.0.dist-info/LICENSE,,\nsome_package/gone.md,,\n"
    )
    folder = tmp_path / "some_package"
    for name in ("a.py", "b.txt", "sub/c.py", "sub/tests/d.py", "old/e.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n" + "x = 1\n" * 50)
    (folder / "sub/made.py").write_text("# Automatically generated by a program.\nx = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def names_of(tree: Tree) -> dict[str, str]:
    return {file.name: file.read() for file in tree.files()}


def test_a_tree_takes_suffixes_below_a_folder_and_leaves_tests_out(package: Path) -> None:
    everything = names_of(Tree(("missing", "some-package"), (".py",)))
    assert sorted(everything) == [
        "some-package/a.py",
        "some-package/old/e.py",
        "some-package/sub/c.py",
        "some-package/sub/made.py",
    ]
    assert everything["some-package/sub/made.py"] == ""
    assert everything["some-package/a.py"].startswith("# a.py\n")
    sub = Tree(("some-package",), (".py",), within="sub", generated="wanted")
    assert {name for name, text in names_of(sub).items() if text} == {"some-package/sub/made.py"}
    rest = Tree(("some-package",), (".py",), without=("sub", "old"))
    assert list(names_of(rest)) == ["some-package/a.py"]


def test_the_prose_of_a_distribution(package: Path) -> None:
    found = {file.name: file.read() for file in Readmes(lambda: ["some-package"]).files()}
    assert found == {
        "some-package/description": "# A README\n\nWith a body.\n",
        "some-package/some_package-1.0.dist-info/LICENSE": "You may do anything.\n",
    }


def test_an_inventory_sees_versions_and_files_change(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(("some-package",), (".py",))
    monkeypatch.setitem(COLLECTIONS, "some", environment.Collection((tree,), enough=1))
    before = inventory("some")
    assert list(before) == ["some-package"]
    assert before["some-package"].startswith("1.0, 4 files, ")
    assert inventory("some") == before
    with (package / "a.py").open("a") as file:
        file.write("more")
    longer = inventory("some")
    assert longer != before
    (package / "a.py").rename(package / "aa.py")
    assert inventory("some") not in (before, longer)
    metadata = package.parent / "some_package-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 2.0"))
    assert inventory("some")["some-package"].startswith("2.0, 4 files, ")


def test_later_sources_are_asked_only_when_needed(package: Path) -> None:
    first = Tree(("some-package",), (".py",), within="sub")
    second = PydocTopics()
    enough = environment.Collection((first, second), enough=100).files()
    short = environment.Collection((first, second), enough=10_000).files()
    assert {file.package for file in enough} == {"some-package"}
    assert {file.package for file in short} == {"some-package", "stdlib"}


# -- reading -------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["argparse", "asyncio/events", "typing", "decimal", "pathlib"])
def test_docstrings_are_those_of_the_syntax_tree(module: str) -> None:
    path = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    if not path.exists():
        pytest.skip(f"this Python has no {path.name}")
    code = path.read_text(encoding="utf-8")
    found = " ".join(docstrings(code).split())
    expected = [
        text
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (text := ast.get_docstring(node, clean=False)) is not None
        and len(text) >= environment.MIN_DOCSTRING
    ]
    # Escapes are kept as written, so compare docstrings that hold none.
    plain = [" ".join(text.split()) for text in expected if "\\" not in code]
    assert all(text in found for text in plain)
    assert len(found) == pytest.approx(sum(len(" ".join(t.split())) for t in expected), rel=0.1)


def test_docstrings_are_dedented_and_code_strings_left_out() -> None:
    code = inspect.cleandoc(
        '''
        TEXT = """Not a docstring, though it is long enough: it is the value of a variable, and
        """
        def f():
            r"""Does something that takes more than eighty characters to say, so it is kept here.

            Indented:
                as it was.
            """
            return """Not one either, because code stands before it on the same line, see above"""

        class C:
            \'\'\'Single quotes do as well, when what they hold is more than
            eighty characters long.\'\'\'
            def g(self):
                """Too short."""
        '''
    )
    assert docstrings(code) == (
        "Does something that takes more than eighty characters to say, so it is kept here.\n\n"
        "Indented:\n    as it was.\n\n"
        "Single quotes do as well, when what they hold is more than\neighty characters long."
    )


@pytest.mark.parametrize(
    ("head", "generated"),
    [
        ("// @generated by torchgen/gen.py from Operator.h", True),
        ("# This file is automatically generated. DO NOT EDIT.", True),
        ("/* AUTOGENERATED */", True),
        ("# Generated from grammar.txt", True),
        ("# Random numbers are generated here", False),
        ("x = 1\n" * 300 + "# generated by hand", False),
    ],
)
def test_which_files_call_themselves_generated(head: str, generated: bool) -> None:
    assert calls_itself_generated(head + "\n") is generated


def test_a_long_text_is_cut_at_the_end_of_a_line() -> None:
    assert cut("short\n", 10) == "short\n"
    assert cut("one line\nanother line\n", 12) == "one line\n"
    assert cut("no line end at all", 7) == "no line"
    assert cut("ä" * 10, 5) == "ää"


def test_files_that_are_not_utf8_read_as_empty(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("größer".encode("latin-1"))
    (tmp_path / "dos").write_bytes(b"a\r\nb\r\n")
    assert environment.read_text(tmp_path / "latin") == ""
    assert environment.read_text(tmp_path / "dos") == "a\nb\n"
