"""The page that `pl.browse` writes, used in a real browser without a network: genes, zoom, values and sliders.

Needs Playwright (of the extra ``test``) and a Chromium that is installed, as Debian's package ``chromium``.
"""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

import stpredict as st

pytest.importorskip("bokeh")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALONE = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, so nothing can be clicked")


@pytest.fixture(scope="module")
def file(tmp_path_factory, _simulated):
    adata = _simulated[0].copy()
    rng = np.random.default_rng(0)
    adata.layers["predicted"] = adata.layers["truth"] + 0.5 * rng.standard_normal(adata.shape).astype(np.float32)
    adata.obs["domains"] = pd.Categorical(np.where(adata.obs["region"] == "tumor", "1", "0"))
    for end, shift in (("", 0), ("_lower", -0.1), ("_upper", 0.1)):
        adata.var[f"predicted_reliability{end}"] = np.linspace(0.2, 0.8, adata.n_vars) + shift
    path = tmp_path_factory.mktemp("page") / "page.html"
    st.pl.browse(adata, path, genes=["ERBB2", "COL1A1", "CD3E"])
    return path, adata


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=ALONE.split())
        yield opened
        opened.close()


@pytest.fixture
def page(browser, file):
    """The page in a window of its own, without a network; whatever it asks for or complains of fails the test."""
    context = browser.new_context(viewport={"width": 1300, "height": 1100}, offline=True)
    shown = context.new_page()
    wrong = []
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    shown.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None)
    shown.goto(file[0].as_uri())
    shown.wait_for_function("() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
    shown.wait_for_timeout(300)
    yield shown
    assert wrong == []
    context.close()


def figure(page, number):
    return page.locator(".bk-Figure").nth(number)


def shots(page):
    """Pictures of the four maps, once they have come to rest."""
    page.wait_for_timeout(300)
    taken = [figure(page, number).screenshot() for number in range(4)]
    for _ in range(20):
        page.wait_for_timeout(100)
        before, taken = taken, [figure(page, number).screenshot() for number in range(4)]
        if taken == before:
            break
    return taken


def test_choosing_a_gene_changes_values_titles_and_colours(page, file):
    adata = file[1]
    before = shots(page)
    page.locator("select").select_option("COL1A1")
    after = shots(page)
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False, True]
    read = """name => {
      for (const model of Bokeh.documents[0].all_models) {
        if (model.data && model.data.spot) return Array.from(model.data[name])
      }
    }"""
    shown = page.evaluate(read, "predicted")
    np.testing.assert_allclose(shown, adata.layers["predicted"][:, adata.var_names == "COL1A1"].ravel(), rtol=1e-6)
    low, high = page.evaluate("""() => {
      const model = [...Bokeh.documents[0].all_models].find(m => m.type === 'LinearColorMapper')
      return [model.low, model.high]
    }""")
    values = np.array(page.evaluate(read, "measured"))
    assert low == pytest.approx(min(np.percentile(values, 1), np.percentile(shown, 1)), rel=1e-5)
    assert high == pytest.approx(max(np.percentile(values, 99), np.percentile(shown, 99)), rel=1e-5)
    r = np.corrcoef(values, shown)[0, 1]
    told = page.evaluate("() => [...Bokeh.documents[0].all_models].filter(m => m.type === 'Title').map(m => m.text)")
    assert {"COL1A1: measured", f"COL1A1: predicted, r = {r:.2f} (n = 413)"} <= set(told)
    assert page.get_by_text("COL1A1 is expected to reach r = ").is_visible()


def test_zooming_one_map_zooms_all_of_them(page):
    before = shots(page)
    box = figure(page, 1).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -300)
    after = shots(page)
    assert all(one != other for one, other in zip(before, after, strict=True))
    page.mouse.move(10, 10)
    page.locator(".bk-tool-icon-reset").first.click()
    back = shots(page)
    assert back == before


def test_the_mouse_tells_the_value_of_a_spot(page, file):
    adata = file[1]
    name = adata.obs_names[200]
    x, y = page.evaluate(
        """name => {
          const spots = [...Bokeh.documents[0].all_models].find(m => m.data && m.data.spot)
          const at = spots.data.spot.indexOf(name)
          const view = [...Bokeh.index.roots].flatMap(r => [...r.owner.query(v => v.model.type === 'Figure')])
            .find(v => v.model.title.text.startsWith('ERBB2: predicted'))
          const frame = view.el.getBoundingClientRect()
          return [frame.x + view.frame.x_scale.compute(spots.data.x[at]), frame.y + view.frame.y_scale.compute(spots.data.y[at])]
        }""",
        name,
    )
    page.mouse.move(x, y)
    value = adata.layers["predicted"][200, adata.var_names == "ERBB2"].item()
    page.get_by_text(name, exact=True).wait_for()
    assert page.get_by_text(f"{value:.2f}", exact=True).is_visible()


def test_sliders_fade_the_spots_and_the_slide(page):
    before = shots(page)
    handles = page.locator(".noUi-handle")
    assert handles.count() == 2
    for number in range(2):
        handles.nth(number).focus()
        for _ in range(6):
            page.keyboard.press("ArrowLeft")
        after = shots(page)
        assert after[0] == before[0]  # the slide alone stays
        assert all(one != other for one, other in zip(before[1:], after[1:], strict=True))
        before = after
