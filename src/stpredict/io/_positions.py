"""Space Ranger's tables of spot positions, in every version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
FILES = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")


def read_positions(folder: Path) -> pd.DataFrame:
    """Positions of all spots by barcode, from the ``spatial`` folder of Space Ranger.

    Versions differ in the file's name and in whether it has a header, so the header is looked for in the file itself.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, has other columns, or names a spot twice.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        msg = f"{folder} holds no spot positions; one of {', '.join(FILES)} is needed."
        raise FileNotFoundError(msg)
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        missing = [name for name in COLUMNS if name not in table]
        if missing:
            msg = f"it has no column {', '.join(missing)}"
            raise ValueError(msg)
        table = table.set_index("barcode")[COLUMNS[1:]]
        table.index = table.index.astype(str)
        table = table.astype({"in_tissue": int, "array_row": int, "array_col": int})
        table = table.astype(dict.fromkeys(COLUMNS[4:], float))
    except (ValueError, TypeError, OSError) as error:
        msg = f"{path} is damaged or no table of spot positions ({error}). Get it again from Space Ranger's output."
        raise ValueError(msg) from error
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()].unique()
        msg = f"{path} names {len(twice)} spots more than once: {', '.join(twice[:3])}. Keep one row for each."
        raise ValueError(msg)
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().strip().replace('"', "").split(",")
    if first[0] == "barcode" or "in_tissue" in first:
        return pd.read_csv(path, dtype={"barcode": str}, encoding="utf-8-sig")
    if len(first) != len(COLUMNS):
        msg = f"it has {len(first)} columns instead of {len(COLUMNS)}"
        raise ValueError(msg)
    return pd.read_csv(path, header=None, names=COLUMNS, dtype={"barcode": str}, encoding="utf-8-sig")
