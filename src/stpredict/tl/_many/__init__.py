"""How `stpredict.tl.predict_many` does many slides: manifest, one slide, workers, results, report."""

from __future__ import annotations
