"""Real text that every Python environment holds: source files, docstrings, READMEs.

A *collection* is an ordered list of sources. They are listed one after the other until enough
text is found, so that another platform or version still fills the collection. What is taken
follows from the files' names and sizes alone, so `inventory` is cheap and says beforehand what
`documents` will read.

Licence of the text: that of each package. Nothing is downloaded and nothing is executed, but
`pydoc_data.topics`, a module of plain strings in the standard library.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from optuna_mde_trainers.corpus.builtin.packages import (
    STDLIB,
    other_distributions,
    package_folder,
    package_version,
    required_distributions,
)

MAX_FILE_BYTES = 80_000  # one torch header is 10 % of all, one changelog 30 % of the prose
MIN_FILE_BYTES = 200  # empty __init__.py files, one-line stubs
SKIPPED_FOLDERS = frozenset({"__pycache__", "test", "tests", "idle_test", "testing"})

GENERATED = re.compile(
    r"@generated|auto-?generated|automatically generated|generated (?:by|from|file)"
    r"|do not (?:edit|modify)",
    re.IGNORECASE,
)
GENERATED_HEAD = 1_000  # characters searched for it: later ones speak of something else


@dataclass(frozen=True)
class Document:
    """One text of a collection."""

    name: str
    """Where it was found, relative to its package: `scipy/linalg/_basic.py`."""
    text: str


@dataclass(frozen=True)
class TextFile:
    """One text that has been listed, and not read yet."""

    package: str
    name: str
    size: int
    """Bytes on disk."""
    read: Callable[[], str]


class Source(Protocol):
    """One entry of a collection's ordered list."""

    def files(self) -> Iterator[TextFile]: ...


# -- kinds of sources ----------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """Files of packages with given suffixes.

    Missing packages are skipped. `within` is a folder below the package, `without` are folders
    (relative to the package) to leave out.
    """

    packages: tuple[str, ...]
    suffixes: tuple[str, ...]
    within: str = ""
    without: tuple[str, ...] = ()
    take: Literal["text", "docstrings"] = "text"
    generated: Literal["left out", "wanted", "any"] = "left out"

    def files(self) -> Iterator[TextFile]:
        for package in self.packages:
            root = package_folder(package)
            if root is not None:
                yield from self._below(package, root)

    def _below(self, package: str, root: Path) -> Iterator[TextFile]:
        for folder, children, names in os.walk(root / self.within):
            place = Path(folder).relative_to(root).as_posix()
            children[:] = sorted(
                child
                for child in children
                if child not in SKIPPED_FOLDERS
                and os.path.normpath(f"{place}/{child}") not in self.without
            )
            for name in sorted(names):
                if name.endswith(self.suffixes):
                    path = os.path.join(folder, name)
                    label = os.path.normpath(f"{package}/{place}/{name}")
                    yield TextFile(package, label, os.path.getsize(path), self._reader(path))

    def _reader(self, path: str) -> Callable[[], str]:
        def read() -> str:
            text = read_text(path)
            if self.generated != "any" and calls_itself_generated(text) != (
                self.generated == "wanted"
            ):
                return ""
            return docstrings(text) if self.take == "docstrings" else text

        return read


PROSE_NAMES = re.compile(
    r"(?:(?:readme|changes|changelog|history|news|contributing|licen[cs]e|copying|notice)"
    r"[^/]*|[^/]+\.(?:md|rst))",
    re.IGNORECASE,
)
PROSE_SUFFIXES = ("", ".md", ".rst", ".txt")


@dataclass(frozen=True)
class Readmes:
    """Descriptions, READMEs, changelogs, licences and other prose of distributions."""

    distributions: Callable[[], list[str]]

    def files(self) -> Iterator[TextFile]:
        for name in self.distributions():
            distribution = importlib.metadata.distribution(name)
            description = _description(distribution)
            yield TextFile(
                name, f"{name}/description", len(description), partial(str, description)
            )
            paths = {
                file.as_posix(): Path(str(file.locate()))
                for file in distribution.files or ()  # None without a RECORD, as on Debian
                if PROSE_NAMES.fullmatch(file.name)
                and file.suffix.lower() in PROSE_SUFFIXES
                and SKIPPED_FOLDERS.isdisjoint(file.parts)
            }
            for label, path in sorted(paths.items()):
                if path.is_file():
                    yield TextFile(
                        name, f"{name}/{label}", path.stat().st_size, partial(read_text, path)
                    )


def _description(distribution: importlib.metadata.Distribution) -> str:
    """The README that a distribution's METADATA holds: everything after its headers."""
    metadata = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    return metadata.replace("\r\n", "\n").partition("\n\n")[2]


@dataclass(frozen=True)
class PydocTopics:
    """The language reference that `help("topic")` shows: some 80 pages of the standard library."""

    def files(self) -> Iterator[TextFile]:
        if importlib.util.find_spec("pydoc_data") is None:
            return
        from pydoc_data.topics import topics

        for topic, text in sorted(topics.items()):
            yield TextFile(STDLIB, f"pydoc/{topic}", len(text), partial(str, text))


# -- reading -------------------------------------------------------------------------------


def read_text(path: str | Path) -> str:
    """A UTF-8 file with Unix line ends; empty when it is not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return ""


def calls_itself_generated(text: str) -> bool:
    """Whether the first lines say that a program wrote the file."""
    return GENERATED.search(text, 0, GENERATED_HEAD) is not None


# All triple-quoted strings are matched, so that the search stays in step with their ends; those
# that begin a line are docstrings. Parsing with `ast` gives the same text 20 times slower.
TRIPLE_QUOTED = re.compile(r"(\"\"\"|''')(.*?)\1", re.DOTALL)
LINE_START = re.compile(r"([ \t]*)[rRuU]?")
MIN_DOCSTRING = 80  # characters: one-line docstrings say little without their code


def docstrings(code: str) -> str:
    """Docstrings of a Python file, dedented, one empty line between them."""
    found = []
    for match in TRIPLE_QUOTED.finditer(code):
        body = match[2]
        line = code.rfind("\n", 0, match.start()) + 1
        indent = LINE_START.fullmatch(code, line, match.start())
        if indent is not None and len(body) >= MIN_DOCSTRING:
            found.append(body.replace("\n" + indent[1], "\n").strip())
    return "\n\n".join(found)


def cut(text: str, limit: int) -> str:
    """The first `limit` bytes of a text, up to the end of a line."""
    data = text.encode()
    if len(data) <= limit:
        return text
    head = data[:limit].decode(errors="ignore")
    return head[: head.rfind("\n") + 1] or head


# -- the collections -----------------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """Sources in the order in which they are asked, and the bytes on disk that suffice."""

    sources: tuple[Source, ...]
    enough: int

    def files(self) -> list[TextFile]:
        found: list[TextFile] = []
        for source in self.sources:
            if sum(min(file.size, MAX_FILE_BYTES) for file in found) >= self.enough:
                break
            found += source.files()
        return found


HEADERS = (".h", ".hpp", ".hh", ".cuh")
CYTHON = (".pyx", ".pxd", ".pxi", ".pyx.tp", ".pxd.tp", ".pyx.in", ".pxi.in")
ATEN_OPS = "include/ATen/ops"  # thousands of near-identical headers


def _docstrings(*packages: str) -> Tree:
    return Tree(packages, (".py",), take="docstrings")


COLLECTIONS: dict[str, Collection] = {
    "python": Collection(
        (
            Tree(
                (STDLIB,),
                (".py",),
                without=("site-packages", "dist-packages", "idlelib", "encodings", "pydoc_data"),
            ),
            Tree(("sqlalchemy", "pygments", "aiohttp", "fsspec", "rich"), (".py",)),
        ),
        enough=5_000_000,
    ),
    "cpp": Collection(
        (
            Tree(
                ("torch",),
                HEADERS,
                within="include",
                without=(ATEN_OPS, "include/pybind11", "include/google"),
            ),
            Tree(("pyarrow", "numpy", "scipy"), HEADERS),
            Tree(("pandas", "greenlet", "scikit-learn"), (*HEADERS, ".c", ".cpp")),
        ),
        enough=5_000_000,
    ),
    "docs": Collection(
        (
            _docstrings("scipy", "scikit-learn", "pandas"),
            _docstrings("numpy", "torch", "botorch"),
            _docstrings("sqlalchemy", "lightning", "plotly"),
        ),
        enough=12_000_000,  # of source files: about a third is docstrings
    ),
    "boilerplate": Collection(
        (
            Tree(("torch",), HEADERS, within=ATEN_OPS, generated="any"),
            Tree(("plotly",), (".py",), within="graph_objs", generated="any"),
            Tree(("plotly",), (".py",), within="validators", generated="any"),
            Tree(("torch",), HEADERS, within="include", generated="wanted"),
        ),
        enough=5_000_000,
    ),
    "prose": Collection(
        (
            PydocTopics(),
            Readmes(required_distributions),
            Readmes(other_distributions),
            _docstrings("lightning", "optuna", "huggingface-hub", "gpytorch"),
        ),
        enough=2_000_000,
    ),
    "mathdocs": Collection(
        (_docstrings("sympy", "networkx"), _docstrings("mpmath", "gpytorch", "botorch")),
        enough=5_000_000,
    ),
    "cython": Collection(
        (
            Tree(("scikit-learn", "pyarrow", "scipy", "pandas"), CYTHON),
            Tree(("numpy", "sqlalchemy", "aiohttp"), CYTHON),
        ),
        enough=1_500_000,
    ),
    "pyi": Collection(
        (
            Tree(("torch", "numpy", "pandas", "scipy"), (".pyi",)),
            Tree(("attrs", "tokenizers", "pydantic-core", "mypy"), (".pyi",)),
        ),
        enough=1_000_000,
    ),
}


def documents(collection: str) -> list[Document]:
    """Texts of a collection, in a fixed order, each at most `MAX_FILE_BYTES` long."""
    found = []
    for file in COLLECTIONS[collection].files():
        text = cut(file.read(), MAX_FILE_BYTES)
        if len(text) >= MIN_FILE_BYTES:
            found.append(Document(file.name, text))
    return found


def inventory(collection: str) -> dict[str, str]:
    """What `documents` would read now: package -> version, files and a digest of their sizes.

    Lists folders and reads no text (some 0.1 s a collection).
    """
    packages: dict[str, list[TextFile]] = {}
    for file in COLLECTIONS[collection].files():
        packages.setdefault(file.package, []).append(file)
    return {package: _summary(package, files) for package, files in packages.items()}


def _summary(package: str, files: Sequence[TextFile]) -> str:
    sizes = "\n".join(f"{file.name} {file.size}" for file in files)
    digest = hashlib.blake2b(sizes.encode(), digest_size=4).hexdigest()
    return f"{package_version(package)}, {len(files):,} files, {digest}"
