"""Pages of the documentation site that are not in docs/: the README, the operators' page, and the library's reference.

A hook of MkDocs (mkdocs.yml). Links between the files of the repository become links between the pages of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[1]
# Files of the repository that are pages of the site under another name.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "cuda_ops/README.md": "operators.md",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    for source in PAGES:
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, PAGES[source], content=_relinked(text, source)))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Relinks the pages that lie in docs/."""
    return markdown if page.file.generated_by else _relinked(markdown, f"docs/{page.file.src_uri}")


def reference() -> str:
    """Returns the page of everything that is public, made of the docstrings."""
    import vss

    modules = {"score": "vss.api", "models": "vss.configs.table:model_rows", **vss._MODULES}
    lines = ["# Reference", "", "Everything that is public, `vss.__all__`, from the docstrings.", ""]
    for name in vss.__all__:
        if name in modules:
            module, _, function = modules[name].partition(":")
            lines += [f"## vss.{name}", "", f"::: {module}.{function or name}", ""]
    return "\n".join(lines)


def _relinked(text: str, source: str) -> str:
    """Returns the text with every link to a file of the repository as a link to its page.

    A link to a file that is no page, such as a config, becomes its name as code.
    """

    def replace(found: re.Match[str]) -> str:
        start, target, anchor, end = found.groups()
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        return found[0] if page is None else f"{start}{page}{anchor or ''}{end}"

    return _LINK.sub(replace, text)
