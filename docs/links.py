"""Links of the pages that leave docs/, into the source, name the file: the site holds the pages alone."""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]*)\]\(((?!https?:|#|mailto:)[^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""

    def told(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        where = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        return found[0] if where.startswith("docs/") else f"{words} (in the source: `{where}`)"

    return _LINK.sub(told, markdown)
