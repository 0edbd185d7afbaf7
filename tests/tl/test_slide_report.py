"""The report: what it says, that it stays small, and that names of slides cannot break it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stpredict.tl._batch.drawn import Drawn
from stpredict.tl._batch.job import Outcome
from stpredict.tl._batch.manifest import Slide
from stpredict.tl._batch.report import RunFacts, summary, write_report
from stpredict.tl._batch.thumbnails import HEIGHT, WIDEST, picture_of

NASTY = '<script>alert("x")</script> & co'


@pytest.fixture
def outcomes(section):
    picture = picture_of(section, section.obs["truth_nuclei"].to_numpy(float))
    done = {"spots": 1234, "genes": 30, "seconds": 12.34, "mpp": 0.4987, "result": "/out/a.zarr"}
    return [
        Outcome(Slide("a", Path("/slides/a.tif")), "done", **done, shown="ERBB2", picture=picture, warnings=NASTY),
        Outcome(Slide(NASTY, Path("/slides/b.tif")), "failed", seconds=1.0, error=f"No {NASTY}", details=NASTY),
        Outcome(Slide("c", Path("/slides/c.tif")), "not done"),
    ]


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_says_everything_and_is_whole(outcomes, tmp_path):
    table = write_report(tmp_path, outcomes, RunFacts("2026-01-01 12:00:00 UTC", 3720, {"Model": f"ridge, {NASTY}"}))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {}
    ]  # our own, and nothing from elsewhere
    assert not [a for _, a in page.tags if any(value.startswith(("http", "//")) for value in a.values() if value)]
    words = ("3 slides: 1 done, 1 failed, 1 not done", "1,234", "0.499", "12.3", "1 h 2 min", f"ridge, {NASTY}")
    for said in (*words, "2026-01-01", "/slides/a.tif", f"No {NASTY}", "slide; predicted ERBB2", "not done"):
        assert said in page.text, said
    assert page.text.count(NASTY) == 6
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 1
    assert summary(table) == "3 slides: 1 done, 1 failed, 1 not done"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["report.csv", "report.html"]


def test_verdicts_and_statuses_are_told_by_marks_and_words(outcomes, tmp_path):
    slides = [
        replace(outcomes[0], verdict=verdict, status=status)
        for verdict, status in (("inside", "done"), ("edge", "kept"), ("outside", "done"), ("unknown", "done"))
    ]
    write_report(tmp_path, [*slides, *outcomes[1:]], RunFacts("", 1, {}))
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text.split())
    for words in (
        "✓ inside",
        "! edge believe with care",
        "✗ outside do not believe",
        "? unknown the model cannot tell",
    ):
        assert words in text, words
    for words in ("✓ done", "✓ kept", "✗ failed", "– not done"):
        assert words in text, words


TOUCH = """<script>
const seen = () => [...body.rows].filter(row => !row.hidden).map(row => value(row, 0));
const said = {}, buttons = [...document.querySelectorAll("th button")];
const press = words => { buttons.find(one => one.textContent === words).click(); return seen() };
said.spots = press("spots"); said.fewest = press("spots"); said.verdict = press("training data"); said.slide = press("slide");
const find = tools.querySelector("#text"), [verdict] = tools.querySelectorAll("select");
const enter = (where, words) => { where.value = words; where.dispatchEvent(new Event("input", { bubbles: true })); return seen() };
said.found = enter(find, "s10"); said.told = tools.querySelector("output").value; enter(find, "");
said.edge = enter(verdict, "edge"); said.head = document.querySelector("th[aria-sort]").outerHTML;
document.title = JSON.stringify(said);
</script>"""
"""What a user does: sort by spots twice, by verdict and by name, find a slide, and choose a verdict."""


def test_the_table_sorts_and_filters_in_a_browser(outcomes, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium")
    facts = {"s2": (900, "outside"), "s10": (1000, "inside"), "s1": (80, "edge"), "empty": (None, "")}
    slides = [
        replace(outcomes[0], slide=Slide(name, Path(f"/{name}.tif")), spots=spots, verdict=verdict)
        for name, (spots, verdict) in facts.items()
    ]
    write_report(tmp_path, slides, RunFacts("", 1, {}))
    page = tmp_path / "report.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{TOUCH}</body>"), encoding="utf-8")
    quiet = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
    call = [browser, *quiet.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout
    said = json.loads(unescape(dom.split("<title>")[1].split("</title>")[0]))
    assert said["spots"] == ["s1", "s2", "s10", "empty"]
    assert said["fewest"] == ["s10", "s2", "s1", "empty"]  # (what has no value comes last either way)
    assert said["verdict"] == ["s10", "s1", "s2", "empty"]
    assert said["slide"] == ["empty", "s1", "s2", "s10"]
    assert said["found"] == ["s10"]
    assert said["told"] == "1 of 4 slides"
    assert said["edge"] == ["s1"]
    assert said["head"].startswith('<th aria-sort="ascending"><button>slide')


def test_a_page_of_the_slide_is_linked_where_there_is_one(outcomes, tmp_path):
    write_report(tmp_path, outcomes, RunFacts("", 1, {}))
    assert "<a " not in (tmp_path / "report.html").read_text(encoding="utf-8")
    odd = replace(outcomes[2], slide=Slide("c #1", Path("/slides/c.tif")))
    own = replace(outcomes[2], slide=Slide("report", Path("/slides/report.tif")))
    for name in ("a", "c #1"):
        (tmp_path / f"{name}.html").write_text("")
    write_report(tmp_path, [outcomes[0], odd, own], RunFacts("", 1, {}))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["a.html", "c%20%231.html"]


def test_there_is_one_bar_for_the_colours_of_all_maps(outcomes, tmp_path):
    slides = [outcomes[0], replace(outcomes[0], shown="KRT8")]  # (the second one is kept from an earlier run)
    write_report(tmp_path, slides, RunFacts("", 1, {}, Drawn("ERBB2", 0.5, 3.25)))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("linear-gradient") == 1
    text = Page(page).text
    assert text.count("slide; predicted ERBB2") == text.count("slide; predicted KRT8, in colours of its own") == 1
    assert text.index("0.50") < text.index("3.25")
    write_report(tmp_path, slides, RunFacts("", 1, {}))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("linear-gradient") == 1
    assert "lowest" in Page(page).text
    assert "in colours of its own" not in page


def test_table_has_a_line_per_slide(outcomes, tmp_path):
    table = write_report(tmp_path, outcomes, RunFacts("", 1, {}))
    columns = "slide path status spots genes seconds mpp verdict error warnings result"
    assert " ".join(table.columns) == columns
    assert table["spots"].dtype == "Int64"
    assert table["seconds"].tolist()[:2] == [12.34, 1.0]
    assert table["mpp"].isna().tolist() == [False, True, True]


def test_picture_is_small_and_shows_slide_and_map(section):
    values = section.obsm["spatial"][:, 0].copy()
    values[:5] = np.nan
    for pixels in (None, np.full((300, 1500, 3), 0.5, np.float32)):
        if pixels is not None:
            section.uns["spatial"]["sim_1"]["images"]["hires"] = pixels
        both = picture_of(section, values)
        assert len(both) < 25_000
        sheet = Image.open(BytesIO(both))
        assert sheet.height <= HEIGHT
        assert sheet.width <= 2 * WIDEST + 6
        assert Image.open(BytesIO(picture_of(section))).width < sheet.width / 2
    del section.uns["spatial"]
    assert picture_of(section, values) == b""


def test_map_runs_from_violet_to_yellow(section):
    sheet = np.asarray(Image.open(BytesIO(picture_of(section, section.obsm["spatial"][:, 0]))), dtype=float)
    width = sheet.shape[1] // 2
    panel = sheet[:, -width:]
    left, right = panel[60:90, 20:35].mean((0, 1)), panel[60:90, -35:-20].mean((0, 1))
    assert left[2] > left[1]
    assert right[1] > right[2]
