"""The figures of docs/accounting.md are there, all of them are shown, and links into the page land somewhere."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "accounting.md").read_text(encoding="utf-8")
FIGURES = {path.name for path in (DOCS / "figures").glob("*.svg")}
EMBEDDED = re.findall(r"!\[([^\]]*)\]\(figures/([^)]+)\)", PAGE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", outside_code, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


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


def test_links_into_the_page_land_on_a_heading():
    there = anchors(PAGE)
    pages = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    asked = {a for page in pages for a in re.findall(r"accounting\.md#([^)\s]+)", page.read_text(encoding="utf-8"))}
    assert {"best-use-of-a-budget", "block-wise-noise-against-its-null-start"} <= asked
    assert asked <= there
    assert set(re.findall(r"\]\(#([^)\s]+)\)", PAGE)) <= there


def test_links_out_of_the_page_resolve():
    for target, anchor in re.findall(r"\]\(([\w/.]+)(?:#([\w-]+))?\)", PAGE):
        path = DOCS / target
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"
