"""A hook of mkdocs.yml: publishes the pages outside docs/, and rewrites the links between pages for the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# the page on the site of a file in the repository, if it is not the file's path below docs/
PUBLISHED = {
    "README.md": "index.md",
    "DATASET.md": "DATASET.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "clip/mini/README.md": "mini-clip.md",
    "clip/icons/README.md": "icons-clip.md",
}
IMAGE = re.compile(r'<img [^>]*?src="([^"]+)"[^>]*>')
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages outside docs/."""
    from mkdocs.structure.files import File

    for source, page in PUBLISHED.items():
        files.append(File.generated(config, page, content=(REPOSITORY / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return site_links(markdown, page.file.src_uri)


def on_page_content(html: str, **_: Any) -> str:
    """Every picture opens in its full size, which a phone needs."""
    return IMAGE.sub(r'<a href="\1">\g<0></a>', html)


def site_links(markdown: str, page: str) -> str:
    """`markdown` of the site's `page`, with its links rewritten from paths in the repository to paths on the site.

    A link to a file that the site lacks becomes the file's name.
    """
    source = next((path for path, place in PUBLISHED.items() if place == page), f"docs/{page}")

    def replace(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = PUBLISHED.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if not place or (REPOSITORY / path).is_dir():
            return f"`{path}`" if f"/{path}".endswith(f"/{text}") else f"{text} (`{path}`)"
        return f"{image}[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(replace, markdown)
