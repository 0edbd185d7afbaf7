"""A folder of finished results, one small file each, so that a run that was cut short goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict._core.files import check_regular, digest, read_text, replacing, tell_damaged, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

FORMAT = 1
PLAN = "plan.json"


def _as_text(value: Any) -> str:
    """What JSON cannot hold, as text that differs where it differs; a table's own text would leave out its middle."""
    import pandas as pd

    if not isinstance(value, pd.DataFrame):
        return repr(value)
    digest = hashlib.sha256(repr(list(value.columns)).encode())
    digest.update(pd.util.hash_pandas_object(value).to_numpy().tobytes())
    return f"table {value.shape} {digest.hexdigest()[:16]}"


class ResultStore:
    """Tables by name, in the folder `path`, of one and the same plan.

    Every table is written whole or not at all, with its digest beside it; one that was changed since is made anew.

    Parameters
    ----------
    path
        Folder, made where it does not exist; None keeps nothing.
    plan
        What the results depend on, ready for JSON: a flat mapping whose values must be what they were.
    methods
        What further depends on the method alone, by label. More labels may be added later.

    Raises
    ------
    ValueError
        If the folder holds results of another plan; what differs is named.
    FileExistsError
        If the folder holds something else.
    """

    def __init__(self, path: str | Path | None, plan: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        known = _plan(self.path)
        plan, methods = (json.loads(json.dumps(part, default=_as_text, sort_keys=True)) for part in (plan, methods))
        if known:
            _check(self.path, known, plan, methods)
            methods = known["methods"] | methods
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / PLAN, json.dumps({"format": FORMAT, "plan": plan, "methods": methods}, indent=1))

    def load(self, name: str) -> pd.DataFrame | None:
        """Return the table `name`, or None where it is not there or was changed since it was kept.

        Warns
        -----
        UserWarning
            If it was changed.
        """
        import pandas as pd

        if self.path is None or not (file := _file(self.path, name)).exists():
            return None
        try:
            check_regular(file)
            if digest(file) == read_text(_beside(file)).strip():
                return pd.read_parquet(file)
        except (OSError, ValueError):
            pass
        tell_damaged(f"{file}, of the job {name},")
        return None

    def save(self, name: str, table: pd.DataFrame) -> None:
        """Keep `table` as `name`."""
        if self.path is None:
            return
        file = _file(self.path, name)
        with replacing(file) as new:
            table.to_parquet(new, index=False)
        write_text(_beside(file), digest(file))


def _plan(path: Path) -> dict[str, Any]:
    """What the folder was made for; empty where there is nothing."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return {}
    try:
        known = json.loads(read_text(path / PLAN))
        if known["format"] == FORMAT and all(isinstance(known[part], dict) for part in ("plan", "methods")):
            return known
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    msg = f"{path} holds no results of this version of stpredict; choose another path=, or empty the folder."
    raise FileExistsError(msg)


def _check(path: Path, known: dict[str, Any], plan: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
    differs = [name for name in known["plan"].keys() | plan.keys() if known["plan"].get(name) != plan.get(name)]
    changed = [label for label, spec in methods.items() if known["methods"].get(label, spec) != spec]
    if differs or changed:
        told = sorted(differs) + [f"method {label!r}" for label in changed]
        msg = (
            f"{path} holds results of another run: {', '.join(told)} differ. Pass what it was made with to go "
            "on, or another path= to start anew."
        )
        raise ValueError(msg)


def _file(path: Path, name: str) -> Path:
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:80]
    return path / f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:10]}.parquet"


def _beside(file: Path) -> Path:
    """Where the digest of a file is kept."""
    return file.with_name(f"{file.name}.sha256")
