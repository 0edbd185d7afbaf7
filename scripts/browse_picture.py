"""The picture of a page of `pl.browse` in the documentation, into ``docs/_static/browse.jpg``.

    pip install ".[test]"  # and a Chromium, such as Debian's package chromium
    python scripts/browse_picture.py

Simulated tissue: one patient to learn from, another to predict.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import stpredict as st

TARGET = Path(__file__).parents[1] / "docs" / "_static" / "browse.jpg"


def main() -> None:
    """Write the page, open it, choose a gene, and take its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    out = parser.parse_args().out
    st.settings.progress = False
    train, new = st.datasets.simulate(2)
    for adata in (train, new):
        st.pp.tiles(adata)
        st.pp.encode(adata)
    model = st.tl.train(train, genes=["ERBB2", "KRT8", "EPCAM", "COL1A1", "CD3E"], method="ridge")
    st.tl.predict_expression(new, model)
    st.tl.domains(new, use_rep="X_morphology", n_domains=4)
    st.tl.localize_tumor(new, markers=["ERBB2", "KRT8", "EPCAM"], threshold=0.5)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        st.pl.browse(new, Path(folder) / "section.html")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 1000})
        page.goto((Path(folder) / "section.html").as_uri())
        page.wait_for_function("() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
        page.locator("select").select_option("ERBB2")
        page.wait_for_timeout(1000)
        page.screenshot(path=out, type="jpeg", quality=70, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
