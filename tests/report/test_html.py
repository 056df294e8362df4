"""The page of a report: its numbers read back, nothing fetched, nothing unescaped, nothing on top of something else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from bnas_deploy import report
from bnas_deploy.report import Report, picture
from bnas_deploy.report.picture import BAR, LETTER, Bar, BarGroup, BarRow, Part
from bnas_deploy.runtime.bench.machine import read_machine
from bnas_deploy.runtime.bench.profile import BINARY, FLOAT
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record

LAYER = "56x56 64->64 k3 s1 d1"


def measured(subject: str, engine: str, median_ms: float, **fields: Any) -> Record:
    return replace(Record(subject, engine, "neon", 1, 1, 50, median_ms, median_ms, median_ms), **fields)


RECORDS = (
    measured(NETWORK, "bnas", 5.0, ratio=Ratio("ort-fp32", 3.9, 4.0, 4.1), file_bytes=250_000),
    measured("cells.0", "bnas", 1.25, kind=BINARY, layer=LAYER),
    measured("cells.1", "bnas", 1.75, kind=BINARY, layer=LAYER),
    measured("stem", "bnas", 0.5, kind=FLOAT),
    measured("add", "bnas", 0.25, kind="add"),
    measured(NETWORK, "ort-fp32", 20.0, file_bytes=8_000_000),
    measured("cells.0", "ort-fp32", 6.0, kind=FLOAT, layer=LAYER),
    measured("cells.1", "ort-fp32", 9.0, kind=FLOAT, layer=LAYER),
    measured("stem", "ort-fp32", 0.5, kind=FLOAT),
)


@pytest.fixture(scope="module")
def made() -> Report:
    return Report(read_machine(), RECORDS, network="BNAS-A")


class Page(HTMLParser):
    """What a browser would make of it: tags with attributes, the text in each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


def page_of(made: Report) -> Page:
    return Page(report.report_page(made))


def test_the_numbers_can_be_read_back(made: Report, tmp_path: Path) -> None:
    (text,) = page_of(made).texts["script"]
    assert json.loads(text) == json.loads(made.to_json())
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    assert report.read_report(path) == made


def test_every_cell_and_figure_of_the_tables_is_there(made: Report) -> None:
    page = page_of(made)
    cells = page.texts["td"]
    for table in report.tables(made):
        assert table.title in page.texts["h2"]
        assert not {cell for row in table.rows for cell in row if cell} - set(cells)
    assert "bnas with 1 thread: 4.00 times as fast as ort-fp32 (3.90 to 4.10)." in page.texts["p"]


def test_the_pictures_show_layers_and_glue_of_both_engines(made: Report) -> None:
    texts = page_of(made).texts["text"]
    for heading in ("Binary convolutions", "Other layers", "Glue"):
        assert heading in texts
    at = texts.index(f"2 of {LAYER}")
    assert texts[at + 1 : at + 3] == ["3000 µs", "15000 µs"]  # both nodes, in bnas and in its twin
    assert "3.750 ms, glue 6.7 %" in texts  # 0.25 of 3.75 ms
    each = texts.index("cells.1")  # and by itself
    assert texts[each + 1 : each + 3] == ["1750 µs", "9000 µs"]


def test_it_needs_no_network_and_runs_no_script(made: Report) -> None:
    text = report.report_page(made)
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {name for _, attributes in page.tags for name in attributes} & {"src", "href", "srcset", "action"}
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "report"}]  # a block of data: browsers do not run it
    policy = next(attributes for _, attributes in page.tags if attributes.get("http-equiv"))
    assert policy == {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; style-src 'unsafe-inline'",
    }


def test_it_is_made_for_light_dark_and_paper(made: Report) -> None:
    (style,) = page_of(made).texts["style"]
    for part in ("color-scheme: light dark", "@media (prefers-color-scheme: dark)", "@media print"):
        assert part in style


HOSTILE = "</script></style><img src=x onerror=alert(1)>\"'&amp;<!--"


def test_what_comes_from_files_is_text(made: Report) -> None:
    records = [replace(each, subject=HOSTILE) if each.subject == "stem" else each for each in RECORDS]
    records = [replace(each, engine=HOSTILE) if each.engine == "ort-fp32" else each for each in records]
    records[0] = replace(records[0], ratio=Ratio(HOSTILE, 1, 2, 3), isa=HOSTILE)
    hostile = Report(replace(made.machine, cpu=HOSTILE, os=HOSTILE), tuple(records), network=HOSTILE)
    page = page_of(hostile)
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in page_of(made).tags}
    assert "".join(page.texts["h1"]) == f"{HOSTILE} on {HOSTILE}"
    (text,) = page.texts["script"]
    assert json.loads(text) == json.loads(hostile.to_json())


def test_single_layers_have_a_picture_of_all_engines(made: Report) -> None:
    layers = [
        measured(LAYER, engine, median, macs=10**6, ratio=ratio)
        for engine, median, ratio in (("bnas", 0.25, Ratio("ort-fp32", 7, 8, 9)), ("ort-fp32", 2.0, None))
    ]
    page = page_of(Report(made.machine, tuple(layers)))
    assert page.texts["h1"] == [f"single layers on {made.machine.cpu}"]
    assert [text for text in page.texts["text"] if "µs" in text] == ["250 µs", "2000 µs"]


# --------------------------------------------------------------------------------------------------------------------
# Pictures


def drawn(*labels: str, bars: int = 1, names: int = 1, text: str = "12.3 µs") -> Element:
    parts = [f"engine {i}" for i in range(names)]
    row = [BarRow(label, tuple(Bar((Part(parts[0], 2.0**i),), text) for i in range(bars))) for label in labels]
    return picture.picture("title", [BarGroup("group", tuple(row)), BarGroup("none", ())], parts)


def size(svg: Element) -> tuple[float, float]:
    left, top, width, height = map(float, svg.attrib["viewBox"].split())
    assert (left, top) == (0, 0)
    return width, height


def box(element: Element) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a rectangle or a line of text."""
    x, y = float(element.attrib["x"]), float(element.attrib["y"])
    if element.tag == "rect":
        return x, y, x + float(element.attrib["width"]), y + float(element.attrib["height"])
    width = LETTER * len(element.text or "")
    if element.attrib["class"] == "label":  # which ends at x
        x -= width
    return x, y - 10, x + width, y + 2


@pytest.mark.parametrize(
    "svg",
    [
        drawn("a", "b"),
        drawn("224x224 1024->1024 k3x1 s2x2 d2x1 g16", "b", bars=6, names=6),
        drawn("n" * 300, bars=2, names=2),
        drawn("a", names=12, text="123.4 ms, glue 100.0 %"),
        drawn("a", "b", names=6, text="x" * 80),
        picture.picture("title", [], ["n" * 99, "m" * 300]),
    ],
    ids=["small", "many bars", "long name", "many names", "long text", "long names"],
)
def test_nothing_overlaps_and_nothing_is_cut_off(svg: Element) -> None:
    width, height = size(svg)
    boxes = [box(element) for element in svg if element.tag in {"rect", "text"}]
    for left, top, right, bottom in boxes:
        assert 0 <= left <= right <= width + 0.5  # the width is rounded
        assert 0 <= top <= bottom <= height
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, (boxes[i], other)


def test_a_long_name_is_shortened_and_whole_in_its_tool_tip() -> None:
    name = f"first{'n' * 100}last"
    (label,) = (text for text in drawn(name).iter("text") if text.attrib["class"] == "label")
    assert label.text is not None
    assert label.text.startswith("first")
    assert label.text.endswith("last")
    assert [title.text for title in label] == [name]


def test_bars_are_on_one_scale() -> None:
    rects = [float(rect.attrib["width"]) for rect in drawn("a", bars=3).iter("rect")][1:]  # the first is the legend's
    assert rects == [95.0, 190.0, 380.0]
    assert float(next(drawn("a").iter("rect")).attrib["width"]) == BAR


def test_a_picture_of_nothing_is_possible() -> None:
    assert size(picture.picture("title", [], []))[1] > 0
    zero = BarGroup("", (BarRow("a", (Bar((Part("n", 0.0),), "0"),)),))
    assert len(list(picture.picture("title", [zero], ["n"]).iter("rect"))) == 1
