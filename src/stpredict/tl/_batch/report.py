"""What became of every slide: a table, as CSV, and as one HTML file with a picture of each."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from stpredict._core.files import write_text
from stpredict._core.warning import warn
from stpredict.models._trust.trust import EDGE, INSIDE, OUTSIDE, UNKNOWN
from stpredict.tl._batch.drawn import FEWEST_DRAWN
from stpredict.tl._batch.thumbnails import colours_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stpredict.tl._batch.drawn import Drawn
    from stpredict.tl._batch.job import Outcome

PAGE, TEMPLATE = "report.html", "report.html.jinja"


@dataclass(frozen=True)
class Look:
    """How a status or a verdict is shown: a mark that tells without colour, the colour, and what to do."""

    rank: int
    mark: str
    look: str
    advice: str = ""


STATUSES = {
    "done": Look(0, "✓", "good"),
    "kept": Look(1, "✓", "good"),
    "not done": Look(2, "–", "careful"),
    "failed": Look(3, "✗", "bad"),
}

VERDICTS = {
    INSIDE: Look(0, "✓", "good"),
    EDGE: Look(1, "!", "careful", "believe with care"),
    OUTSIDE: Look(2, "✗", "bad", "do not believe"),
    UNKNOWN: Look(3, "?", "careful", "the model cannot tell"),
    "": Look(4, "", ""),
}


@dataclass(frozen=True)
class RunFacts:
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


def write_report(folder: Path, outcomes: Sequence[Outcome], run: RunFacts) -> pd.DataFrame:
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
        write_text(folder / PAGE, _page(folder, outcomes, run))
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
    of_training = f"; compared with the training data: {verdicts}" if verdicts else ""
    return f"{len(table)} slide{'s' if len(table) > 1 else ''}: {', '.join(words)}{of_training}"


def _page(folder: Path, outcomes: Sequence[Outcome], run: RunFacts) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template(TEMPLATE)
    low, high, colours = _colours(run.drawn)
    stops = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colours_of(np.linspace(0, 1, 9))]
    statuses = [status for status in STATUSES if any(one.status == status for one in outcomes)]
    verdicts = [verdict for verdict in VERDICTS if verdict and any(one.verdict == verdict for one in outcomes)]
    return template.render(
        summary=summary(report_table(outcomes)),
        facts={"Started": run.started, "Took": _duration(run.seconds), **run.facts},
        failed=[one for one in outcomes if one.status == "failed"],
        colours=colours,
        gene="" if run.drawn is None else run.drawn.gene,
        low=low,
        high=high,
        stops=stops,
        fewest=FEWEST_DRAWN,
        choices={"Training data": verdicts, "Status": statuses},
        rows=[_row(folder, one, run.drawn) for one in outcomes],
    )


def _colours(drawn: Drawn | None) -> tuple[str, str, str]:
    """What stands at both ends of the colours of the maps, and what they mean."""
    if drawn is None:
        return "lowest", "highest of the slide", "Maps run from low (violet) to high (yellow) within each slide."
    meaning = (
        f"Maps show the predicted expression of {drawn.gene}, log1p of counts per 10,000, in the same colours on all slides. "
        "Of predictions for held-out training spots, 98\u00a0% lie between the ends; what lies beyond has the colour of the end."
    )
    return f"{drawn.low:.2f}", f"{drawn.high:.2f}", meaning


def _row(folder: Path, one: Outcome, drawn: Drawn | None) -> dict[str, Any]:
    """What the template shows of a slide."""
    page = f"{one.slide.name}.html"
    linked = page != PAGE and (folder / page).is_file()
    caption = f"slide; predicted {one.shown}" if one.shown else "slide"
    if drawn is not None and one.shown not in ("", drawn.gene):  # kept from a run that chose another gene
        caption += ", in colours of its own"
    numbers = [
        (one.spots, _number(one.spots, "{:,}")),
        (one.genes, _number(one.genes, "{:,}")),
        (one.mpp, _number(one.mpp, "{:.3g}")),
        (one.seconds, _number(one.seconds, "{:.1f}")),
    ]
    return {
        "one": one,
        "page": quote(page) if linked else "",
        "picture": base64.b64encode(one.picture).decode(),
        "caption": caption,
        "status": STATUSES[one.status],
        "verdict": VERDICTS[one.verdict],
        "numbers": [("" if value is None else value, shown) for value, shown in numbers],
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
