"""What became of every slide: a table, as CSV, and as one HTML file with a picture of each."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core.files import write_text
from stpredict._core.warning import warn
from stpredict.models._trust.trust import EDGE, INSIDE, OUTSIDE, UNKNOWN
from stpredict.tl._batch.thumbnails import colours_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stpredict.tl._batch.drawn import Drawn
    from stpredict.tl._batch.job import Outcome

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2em auto; max-width: 76em; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 1.8em }
table { border-collapse: collapse; width: 100% }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #999 }
th, td { padding: .35em .7em; vertical-align: top } td { border-bottom: 1px solid #ddd }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.path, pre { font-size: .8em; color: #555; overflow-wrap: anywhere } pre { white-space: pre-wrap }
table.facts { width: auto } table.facts td { border: 0; padding: .1em 1.5em .1em 0 }
figcaption { font-size: .8em; color: #555 } figure { margin: 0 }
.bar { display: inline-block; width: 12em; height: .9em; margin: 0 .4em; vertical-align: -.1em }
th.number { white-space: nowrap } .failed { color: #b00020; font-weight: 600 } .done, .kept { color: #17692f } .warning { color: #8a5a00 }
"""


@dataclass(frozen=True)
class Run:
    """Facts about a run for the head of its report."""

    started: str
    seconds: float
    facts: Mapping[str, Any]
    drawn: Drawn | None = None
    """The gene of the maps and the ends of their colours, where these are the same on all slides."""


def report_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One line per slide."""
    rows = [
        {
            "slide": one.slide.name,
            "path": str(one.slide.path),
            "status": one.status,
            "spots": one.spots,
            "genes": one.genes,
            "seconds": one.seconds,
            "mpp": one.mpp,
            "verdict": one.verdict,
            "error": one.error,
            "warnings": one.warnings,
            "result": one.result,
        }
        for one in outcomes
    ]
    return pd.DataFrame(rows).astype({"spots": "Int64", "genes": "Int64", "seconds": float, "mpp": float})


def write_report(folder: Path, outcomes: Sequence[Outcome], run: Run) -> pd.DataFrame:
    """Write ``report.csv`` and ``report.html``, and return the table.

    Warns
    -----
    UserWarning
        If they cannot be written, as on a full disk.
    """
    table = report_table(outcomes)
    try:
        write_text(
            folder / "report.csv",
            table.assign(**{name: table[name].map(_no_formula) for name in TEXT}).to_csv(index=False),
        )
        write_text(folder / "report.html", _page(outcomes, run))
    except OSError as error:
        msg = f"The report could not be written to {folder} ({error}); the returned table says the same."
        warn(msg)
    return table


TEXT = ("slide", "path", "error", "warnings", "result")


def _no_formula(value: Any) -> Any:
    """A cell that no spreadsheet program takes for a formula: it would compute what a file's name says."""
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in tuple("=+-@") else value


def summary(table: pd.DataFrame) -> str:
    """How many slides ended how, in words."""
    count = Counter(table["status"])
    words = [f"{count[status]} {status}" for status in ("done", "kept", "failed", "not done") if count[status]]
    judged = Counter(table["verdict"][table["verdict"] != ""])
    verdicts = ", ".join(
        f"{judged[verdict]} {verdict}" for verdict in (INSIDE, EDGE, OUTSIDE, UNKNOWN) if judged[verdict]
    )
    of_training = f"; of what the model was trained on, {verdicts}" if verdicts else ""
    return f"{len(table)} slide{'s' if len(table) > 1 else ''}: {', '.join(words)}{of_training}"


def _page(outcomes: Sequence[Outcome], run: Run) -> str:
    table = report_table(outcomes)
    facts = {"Started": run.started, "Took": _duration(run.seconds), **run.facts}
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    bad = [one for one in outcomes if one.status == "failed"]
    failures = "".join(_failure(one) for one in bad)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Predicted slides</title>'
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(summary(table))}</h1>\n"
        f'<table class="facts">{lines}</table>\n'
        + (
            f"<h2>Failed</h2>\n<p>Another run tries them again and leaves the others as they are.</p>\n<table>{failures}</table>\n"
            if bad
            else ""
        )
        + f"<h2>All slides</h2>\n<p>{_colours(run.drawn)} Slides with fewer than 10 spots have no map. The column training data says whether a slide is inside of what the model was trained on, at its edge or outside; do not believe predictions for slides outside.</p>\n<table><tr><th>slide</th><th></th><th>status</th><th>training data</th>"
        + "".join(f'<th class="number">{name}</th>' for name in ("spots", "genes", "µm/px", "seconds"))
        + "</tr>\n"
        + "\n".join(_row(one) for one in outcomes)
        + "\n</table></body></html>\n"
    )


def _colours(drawn: Drawn | None) -> str:
    """What the colours of the maps mean, in HTML."""
    if drawn is None:
        return "Maps run from low (violet) to high (yellow) within each slide."
    stops = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours_of(np.linspace(0, 1, 9)))
    return (
        f"Maps show the predicted expression of {escape(drawn.gene)}, log1p of counts per 10,000, in the same colours on all "
        f'slides: <span style="white-space: nowrap">{drawn.low:.2f}<span class="bar" style="background: '
        f'linear-gradient(to right, {stops})"></span>{drawn.high:.2f}</span>. Of predictions for held-out '
        "training spots, 98 % lie between these ends; what lies beyond has the colour of the end."
    )


def _failure(one: Outcome) -> str:
    details = f"<details><summary>traceback</summary><pre>{escape(one.details)}</pre></details>" if one.details else ""
    return f"<tr><td>{escape(one.slide.name)}</td><td>{escape(one.error)}{details}</td></tr>\n"


def _row(one: Outcome) -> str:
    picture = ""
    if one.picture:
        source = f"data:image/jpeg;base64,{base64.b64encode(one.picture).decode()}"
        caption = f"slide; predicted {one.shown}" if one.shown else "slide"
        picture = (
            f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
        )
    told = f'<div class="warning">{escape(one.warnings)}</div>' if one.warnings else ""
    numbers = [_count(one.spots), _count(one.genes), _number(one.mpp, "{:.3g}"), _number(one.seconds, "{:.1f}")]
    status = one.status.replace(" ", "-")
    if one.verdict and one.verdict != INSIDE and status in ("done", "kept"):
        status = "warning"
    return (
        f'<tr><td>{escape(one.slide.name)}<div class="path">{escape(str(one.slide.path))}</div></td><td>{picture}</td>'
        f'<td><span class="{status}">{one.status}</span>{told}</td><td>{escape(one.verdict)}</td>'
        + "".join(f'<td class="number">{number}</td>' for number in numbers)
        + "</tr>"
    )


def _count(value: int | None) -> str:
    return _number(value, "{:,}")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
