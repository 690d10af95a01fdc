"""Hooks of the site: the repository's pages as they are, with links that work on it too.

Links in the pages are those that work in the repository. Pages under `docs/` stand at the root of
the site, those elsewhere at their path; a link to another file leads to a page with its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
README = "readme-page.md"  # README.md would be a second index.md
SOURCE = "source/"
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]+)(#[^)\s]*)?\)")
HELP = "<!-- the help of every command -->"


def pages() -> list[str]:
    """Paths, in the repository, of the pages outside `docs/`."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    found += [ROOT / "examples/README.md", *ROOT.glob("benchmarks/**/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def place(path: str) -> str:
    """Where a file of the repository stands on the site."""
    if path == "README.md":
        return README
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return path if path in pages() else f"{SOURCE}{path}.md"


def target(page: str, link: str) -> str:
    """The file of the repository that a page's link leads to; for a folder, what describes it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if (ROOT / path).is_dir():
        names = ("README.md", "__init__.py")
        inside = (f"{path}/{name}" for name in names)
        return next((file for file in inside if (ROOT / file).is_file()), path)
    return path


def rewritten(page: str, text: str) -> str:
    """A page's text with links as they must be on the site, and lists as its parser wants them."""
    here = posixpath.dirname(place(page)) or "."

    def link(match: re.Match[str]) -> str:
        return f"]({posixpath.relpath(place(target(page, match[1])), here)}{match[2] or ''})"

    return indented(LINK.sub(link, text))


def indented(text: str) -> str:
    """What belongs to an item of a list is indented by two here, by four in Python-Markdown."""
    lines, fenced = [], False
    for line in text.split("\n"):
        begins = line.startswith("  ```")
        lines.append(f"  {line}" if begins or fenced or re.match(r"  \S", line) else line)
        fenced ^= begins
    return "\n".join(lines)


def shown(path: str) -> str:
    """A page with the text of a file, or the names in a folder."""
    if (ROOT / path).is_dir():
        names = sorted(file.name for file in (ROOT / path).iterdir())
        return "\n".join([f"# {path}", "", *(f"- `{name}`" for name in names)])
    language = {".py": "python", ".yaml": "yaml", ".sh": "bash"}.get(Path(path).suffix, "text")
    return f"# {path}\n\n~~~~{language}\n{(ROOT / path).read_text(encoding='utf-8')}\n~~~~\n"


def commands() -> str:
    """The help of the program and of every command, from the program itself."""
    from optuna_mde_studies.cli import app
    from typer.main import get_group
    from typer.testing import CliRunner

    parts = []
    for name in get_group(app).commands:
        # a width of its own: that of a terminal would change the page
        told = CliRunner().invoke(
            app, [name, "--help"], env={"COLUMNS": "88"}, prog_name="optuna-mde"
        )
        parts.append(f"## {name}\n\n```text\n{told.output.strip()}\n```\n")
    return "\n".join(parts)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages outside `docs/`, and the files that pages link to."""
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in pages()}
    for path, text in texts.items():
        files.append(File.generated(config, place(path), content=text))
    inside = [path.relative_to(ROOT).as_posix() for path in (ROOT / DOCS).glob("*.md")]
    texts |= {path: (ROOT / path).read_text(encoding="utf-8") for path in inside}
    linked = {
        target(page, match[1]) for page, text in texts.items() for match in LINK.finditer(text)
    }
    for path in sorted(linked - texts.keys()):
        if not path.startswith(DOCS) and (ROOT / path).exists():
            files.append(File.generated(config, place(path), content=shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links, lists and the commands' help."""
    uri = page.file.src_uri
    if uri.startswith(SOURCE):
        return markdown
    path = "README.md" if uri == README else uri if uri in pages() else f"{DOCS}{uri}"
    return rewritten(path, markdown).replace(HELP, commands() if HELP in markdown else "")
