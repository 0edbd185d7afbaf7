"""The picture of docs/benchmarks.md, from its own tables, into ``docs/_static/benchmarks.png``.

python scripts/benchmark_picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

DOCS = Path(__file__).parent.parent / "docs"
COLOURS = {
    "density": "#999999",
    "ridge": "#0072B2",
    "knn": "#56B4E9",
    "mixture": "#009E73",
    "cmrcnet": "#E69F00",
    "st_align": "#CC79A7",
    "consensus": "#000000",
}
TITLES = ("Without references", "With `reference=`, counts of other patients")


def rows_below(page: str, title: str) -> list[list[str]]:
    """Cells of the table that follows the line ``**title**``."""
    lines = page.split(f"**{title}**")[1].strip().splitlines()[2:]
    table = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table]


def main() -> None:
    """Draw it."""
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    tables = [rows_below(page, title) for title in TITLES]
    tasks = list(dict.fromkeys(row[0] for row in tables[0]))[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True, sharey=True, layout="constrained")
    for axis, table, title in zip(axes, tables, ("without references", "with reference="), strict=True):
        for method, colour in COLOURS.items():
            mine = {row[0]: float(row[2]) for row in table if row[1] == method}
            default = method == "consensus"
            mark = {"marker": "D", "s": 90, "facecolor": "none", "edgecolor": colour, "linewidth": 1.5}
            if not default:
                mark = {"marker": "|", "s": 130, "color": colour, "linewidth": 2.5}
            label = "consensus, the default" if default else method
            axis.scatter(mine.values(), [tasks.index(task) for task in mine], label=label, zorder=3, **mark)
        axis.set(title=title, xlabel="mean PCC, 50 genes of highest mean (HEG)", xlim=(0, None))
        axis.set_yticks(range(len(tasks)), tasks)
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(loc="lower right", frameon=False, fontsize=8)
    figure.savefig(DOCS / "_static" / "benchmarks.png", dpi=130)


if __name__ == "__main__":
    main()
