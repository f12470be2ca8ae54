"""The figures of docs/accounting.md are there, and all of them are shown."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "accounting.md").read_text(encoding="utf-8")
FIGURES = {path.name for path in (DOCS / "figures").glob("*.svg")}
EMBEDDED = re.findall(r"!\[([^\]]*)\]\(figures/([^)]+)\)", PAGE)


def test_every_figure_of_the_page_exists_and_every_figure_is_on_the_page():
    assert EMBEDDED
    shown = [name for _, name in EMBEDDED]
    assert set(shown) == FIGURES
    assert len(shown) == len(set(shown))


def test_every_figure_says_in_words_what_is_seen():
    for words, name in EMBEDDED:
        assert len(words) > 80, name


def test_figures_are_well_formed_and_carry_no_date():
    for name in FIGURES:
        text = (DOCS / "figures" / name).read_text(encoding="utf-8")
        assert ET.fromstring(text).tag.endswith("svg"), name
        assert "<dc:date>" not in text, name
