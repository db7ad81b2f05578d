import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from aladin.measures.html_report import HardQuery, html_page
from aladin.measures.plots import LEFT, RIGHT, WIDTH, interval_plot, mark, rank_curves, rank_histogram
from aladin.measures.recalls import DIRECTIONS, Estimate
from aladin.measures.report import QueryValues, Report, Subject, full_report, head_figures

NASTY = "<script>alert('x')</script> & \"quotes\""
HEADS = ("matching", "alignment", "two-stage k=100", "cross-encoder k=100 n=20")


@pytest.fixture
def report() -> Report:
    random = np.random.default_rng(0)
    ranks = {head: {direction: random.integers(1, 900, 400) for direction in DIRECTIONS} for head in HEADS}
    judged = {"alignment": {"text_to_image": {"NDCG@25 (ROUGE-L)": random.random(400) * 100}}}
    subject = Subject("lite", NASTY, "val", 400, 400, 100, "fp32", "flickr8k", "d1")
    return full_report(subject, QueryValues([1] * 400, ranks, judged, {}), {"images": 2.0}, {})


@pytest.fixture
def page(report: Report) -> str:
    return html_page(report, {direction: [HardQuery(899, NASTY, "right.jpg", "first.jpg")] for direction in DIRECTIONS})


class Outline(HTMLParser):
    """The tags of a page, in pairs, with their attributes; and its text."""

    VOID = ("meta", "br", "circle", "rect", "path", "line", "polyline", "polygon")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_needs_nothing_else_and_runs_nothing(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in outline.tags}
    names = {name for _, attributes in outline.tags for name in attributes}
    assert not {"src", "href", "style"} & names
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    policy = next(attributes["content"] for tag, attributes in outline.tags if attributes.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_what_the_data_say_is_shown_as_text(page: str) -> None:
    assert Outline(page).text.count(NASTY) == 3  # the data's name, and a query in both directions


def test_every_figure_is_on_the_page(page: str, report: Report) -> None:
    text = Outline(page).text
    for head, figures in report.heads.items():
        assert head in text
        assert str(figures.rsum) in text
        for direction in DIRECTIONS:
            assert all(str(recall) in text for recall in figures.directions[direction].recalls.values())
    assert str(report.judged[0].value) in text
    assert "A tie counts against the right answer." in text
    assert "400 queries" in text


def test_plots_are_drawings_with_a_name_for_those_who_cannot_see_them(page: str) -> None:
    plots = re.findall(r'<svg class="plot".*?</svg>', page)
    assert len(plots) == 6
    for plot in plots:
        assert ElementTree.fromstring(plot).attrib["aria-label"].startswith(("Image to text: ", "Text to image: "))


def test_a_report_without_ranks_has_no_plot_of_them() -> None:
    ranks = {"image_to_text": np.array([1, 2]), "text_to_image": np.array([1, 3])}
    bare = Report(Subject("lite", "photos.zip", None, 2, 2, 0, "fp32"), {"alignment": head_figures(ranks)}, {})
    page = html_page(bare, {})
    assert "Where the right answer stands" not in page
    assert "Hardest" not in page


def test_an_interval_is_drawn_from_its_low_to_its_high() -> None:
    plot = ElementTree.fromstring(interval_plot({"Recall@1": [Estimate(50.0, 25.0, 100.0)]}, "title"))
    line = next(element for element in plot if "whisker" in element.get("class", ""))
    inner = WIDTH - LEFT - RIGHT
    assert [float(line.attrib[x]) for x in ("x1", "x2")] == pytest.approx([LEFT + inner / 4, WIDTH - RIGHT])
    assert float(next(element for element in plot if element.tag == "circle").attrib["cx"]) == pytest.approx(LEFT + inner / 2)


def test_a_curve_rises_to_all_queries() -> None:
    plot = ElementTree.fromstring(rank_curves([np.array([1, 1, 10, 100])], 100, "title"))
    points = [
        tuple(map(float, point.split(","))) for point in next(e for e in plot if e.tag == "polyline").attrib["points"].split()
    ]
    heights = [y for _, y in points]
    assert heights == sorted(heights, reverse=True)
    # Half of the queries have their answer first; all have it among the first hundred, at the top right.
    assert heights[0] == pytest.approx((heights[-1] + (heights[-1] + 190)) / 2)
    assert points[-1][0] == pytest.approx(WIDTH - RIGHT)


def test_a_histogram_counts_every_query_once() -> None:
    plot = ElementTree.fromstring(rank_histogram([np.array([1, 3, 5, 700, 900])], "title"))
    shares = [float(e.text or 0) for e in plot if e.tag == "text" and "soft" not in e.get("class", "")]
    assert shares == [20.0, 40.0, 0.0, 0.0, 0.0, 0.0, 40.0]


def test_heads_differ_in_shape_not_in_colour_alone() -> None:
    assert len({re.match(r"<(\w+)", mark(head, 0.0, 0.0)).group(1) for head in range(4)}) == 4  # type: ignore[union-attr]
