"""What the site adds to mkdocs: the repository's files that pages link to become pages of the site.

Pages link to code the way a Git host wants it (``../balcony_edge/session.py``), and a site has no such file. So each
file that is linked, and each that those link in turn, becomes a page ``repository/<path>.md``: Markdown as it is, all
else as code with line numbers. A link whose text names what the file defines (`Ladder.outputs`) leads to that line.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(\[(?P<text>[^\]]*)\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
HOME = "repository"


def definitions(source: str) -> dict[str, int]:
    """The lines of all that a Python file defines: names, and for what a class holds ``Class.name``."""
    found: dict[str, int] = {}

    def visit(body: list[ast.stmt], within: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found[within + node.name] = node.lineno
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{within}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update({within + one.id: node.lineno for one in node.targets if isinstance(one, ast.Name)})
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[within + node.target.id] = node.lineno

    visit(ast.parse(source).body, "")
    return found


def links(markdown: str, page: str) -> list[tuple[str, str]]:
    """(text, path in the repository) of each link to a file in ``page``, itself a path in the repository."""
    found = []
    for match in LINK.finditer(_without_code(markdown)):
        if (path := _in_repository(match["target"], page)) is not None:
            found.append((match["text"], path))
    return found


# --- called by mkdocs ---


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file of the repository that the site's pages lead to."""
    from mkdocs.structure.files import File

    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        page = waiting.pop()
        for _, path in links((ROOT / page).read_text(encoding="utf-8"), page):
            if path in known or path.startswith("docs/") or not (ROOT / path).is_file():
                continue
            known.add(path)
            files.append(File.generated(config, _address(path), content=_content(path)))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the repository into links to their pages."""
    here = page.file.src_uri
    origin = _origin(here)
    if here.startswith(f"{HOME}/") and not origin.endswith(".md"):
        return markdown

    def led(match: re.Match[str]) -> str:
        path = _in_repository(match["target"], origin)
        if path is None:
            return match[0]
        if not (ROOT / path).is_file():
            return match["text"]
        target = posixpath.relpath(_address(path), posixpath.dirname(here) or ".")
        line = None if match["anchor"] else _line(path, match["text"])
        mark = "" if line is None else f'{{ data-line="{line}" }}'
        return f"{match[1]}{target}{match['anchor'] or ''}){mark}"

    # Fenced code stays as it is.
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if index % 2 else LINK.sub(led, part) for index, part in enumerate(parts))


def on_page_content(html: str, **_: Any) -> str:
    """Lead marked links to their line. Not before: mkdocs checks anchors and does not see those in code."""
    html = re.sub(r'<a data-line="(\d+)" href="([^"#]+)"', r'<a href="\2#__codelineno-0-\1"', html)
    return re.sub(r'<a href="([^"#]+)" data-line="(\d+)"', r'<a href="\1#__codelineno-0-\2"', html)


# --- inside ---


def _without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)


def _in_repository(target: str, page: str) -> str | None:
    """The path in the repository that a page's link leads to; None for an address of the web."""
    if re.match(r"[a-z]+:", target) or target.startswith("#"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _address(path: str) -> str:
    """Where the site keeps a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{HOME}/{path}" if path.endswith(".md") else f"{HOME}/{path}.md"


def _origin(address: str) -> str:
    """The file of the repository behind a page of the site."""
    if not address.startswith(f"{HOME}/"):
        return f"docs/{address}"
    path = address.removeprefix(f"{HOME}/")
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def _content(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = "python" if path.endswith(".py") else "toml" if path.endswith(".toml") else "text"
    head = f"---\ntitle: {posixpath.basename(path)}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    return f'{head}``````{language} linenums="1"\n{text.rstrip()}\n``````\n'


def _line(path: str, text: str) -> int | None:
    """The line that defines what a link's text names, if the file does."""
    if not path.endswith(".py"):
        return None
    return definitions((ROOT / path).read_text(encoding="utf-8")).get(text.strip("`").removesuffix("()"))
