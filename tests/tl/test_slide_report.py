"""The report: what it says, that it stays small, and that names of slides cannot break it."""

from __future__ import annotations

from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stpredict.tl._batch.job import Outcome
from stpredict.tl._batch.manifest import Slide
from stpredict.tl._batch.report import Run, summary, write_report
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
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_says_everything_and_is_whole(outcomes, tmp_path):
    table = write_report(tmp_path, outcomes, Run("2026-01-01 12:00:00 UTC", 3720, {"Model": f"ridge, {NASTY}"}))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert not [a for _, a in page.tags if any(value.startswith("http") for value in a.values() if value)]
    words = ("3 slides: 1 done, 1 failed, 1 not done", "1,234", "0.499", "12.3", "1 h 2 min", f"ridge, {NASTY}")
    for said in (*words, "2026-01-01", "/slides/a.tif", f"No {NASTY}", "slide; predicted ERBB2", "not done"):
        assert said in page.text, said
    assert page.text.count(NASTY) == 6
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 1
    assert summary(table) == "3 slides: 1 done, 1 failed, 1 not done"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["report.csv", "report.html"]


def test_table_has_a_line_per_slide(outcomes, tmp_path):
    table = write_report(tmp_path, outcomes, Run("", 1, {}))
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
