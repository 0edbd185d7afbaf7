"""Where the files of a run of Space Ranger are, under the names that downloads give them.

GEO puts a sample's name before every file, lays all of them in one folder, and gzips some.
"""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stpredict._core.expansion import check_expansion
from stpredict._core.files import check_regular

if TYPE_CHECKING:
    from pathlib import Path

BINS = re.compile(r"square_(\d{3})um")
SEGMENTED = "segmented_outputs"
OWN_FOLDERS = ("outs", "binned_outputs", SEGMENTED, "spatial")
"""Folders of Space Ranger, which are no names of samples."""

SCALE_FACTORS = "scalefactors_json.json"
CELLS = "cell_segmentations.geojson"
ARCHIVE = re.compile(r".*\.(tar\.gz|tgz|tar|zip)", re.IGNORECASE)
BEFORE = r"(?:(?P<sample>.*)[_.-])?"
"""The sample's name, before that of a file."""

GZIP_DAMAGE = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class VisiumFiles:
    """One section's files.

    Attributes
    ----------
    folder
        Where its counts are.
    spatial
        Where its positions, scale factors and images are.
    sample
        What the names of all its files begin with; empty where nothing.
    bin_um
        Bin size of Visium HD, µm.
    """

    folder: Path
    spatial: Path
    sample: str = ""
    bin_um: float | None = None

    def spatial_file(self, name: str) -> Path | None:
        """The file of a name (a regular expression) beside the positions; None where there is none.

        Raises OSError if it is no file but a folder, a pipe or a device.
        """
        found = next(iter(called(self.spatial, name, self.sample if self.spatial == self.folder else "")), None)
        if found is not None:
            check_regular(found)
        return found


def called(folder: Path, name: str, sample: str = "") -> list[Path]:
    """Files or folders of a name (a regular expression), whole or behind the sample's, gzipped or not; plain ones first."""
    pattern = re.compile(rf"{BEFORE}({name})(\.gz)?")
    found = [p for p in folder.iterdir() if _is_of(p, sample) and pattern.fullmatch(p.name)]
    return sorted(found, key=lambda p: (len(p.name), p.name))


def _is_of(path: Path, sample: str) -> bool:
    """Whether a file belongs to a sample, by its name."""
    return not sample or (path.name.startswith(sample) and path.name[len(sample) : len(sample) + 1] in (*"_.-", ""))


def unpack(path: Path, target: Path) -> Path:
    """Write what a gzipped file holds to `target`. Raises ValueError if it is damaged, or too large."""
    try:
        with gzip.open(path, "rb") as source, target.open("wb") as out:
            while block := source.read(2**22):
                out.write(block)
                check_expansion(out.tell(), path)
    except GZIP_DAMAGE as error:
        msg = f"{path} cannot be unpacked ({error}). Get it again."
        raise ValueError(msg) from error
    return target


def pack(path: Path, target: Path) -> Path:
    """Write a file gzipped."""
    with path.open("rb") as source, gzip.open(target, "wb", compresslevel=1) as out:
        shutil.copyfileobj(source, out)
    return target


def find_run(path: Path, bin_um: int | None) -> VisiumFiles:
    """The files of the section at `path`: a folder, or a folder and the first part of its files' names.

    Raises FileNotFoundError if there is no such folder, or it lacks the spots' positions; ValueError if it is an
    archive, holds several sections, or has no such bins.
    """
    sample = ""
    if not path.is_dir():
        path, sample = _named_files(path)
    if not any((path / part).exists() for part in ("spatial", "binned_outputs")) and (path / "outs").is_dir():
        path = path / "outs"
    _refuse_joined(path)
    bins = {int(b.name[7:10]): b for b in path.glob("binned_outputs/square_*um") if BINS.fullmatch(b.name)}
    if bins:
        chosen = bin_um if bin_um is not None else 8 if 8 in bins else min(bins)
        if chosen not in bins:
            msg = f"{path} has no bins of {chosen} µm; it has {', '.join(map(str, sorted(bins)))}."
            raise ValueError(msg)
        return VisiumFiles(bins[chosen], _spatial_folder(bins[chosen], "")[0], bin_um=float(chosen))
    if bin_um is not None and path.name != f"square_{bin_um:03d}um":
        msg = f"bin_um={bin_um} is for Visium HD, but {path} has no 'binned_outputs'."
        raise ValueError(msg)
    if (path / SEGMENTED).is_dir():
        path = path / SEGMENTED
    spatial, sample = _spatial_folder(path, sample)
    return VisiumFiles(path, spatial, sample)


def name_of(path: Path, run: VisiumFiles) -> str:
    """Name of a section: its sample, or the first folder above it that is not Space Ranger's own."""
    if run.sample:
        return run.sample
    path = path.resolve()
    while path.name in OWN_FOLDERS or BINS.fullmatch(path.name):
        path = path.parent
    return path.name


def _named_files(path: Path) -> tuple[Path, str]:
    """The folder and the sample, where `path` is what the names of a section's files begin with."""
    if path.is_file():
        msg = f"{path} is a file. Give the folder of Space Ranger's output, usually called 'outs'."
        if ARCHIVE.fullmatch(path.name):
            msg = f"{path} is an archive. Unpack it, then give the folder: {_command(path)}"
        raise FileNotFoundError(msg)
    begins = re.compile(re.escape(path.name) + r"[_.-].*")
    if path.parent.is_dir() and any(begins.fullmatch(p.name) for p in path.parent.iterdir()):
        return path.parent, path.name
    msg = f"There is no folder {path}. Give the folder of Space Ranger's output, usually called 'outs'."
    raise FileNotFoundError(msg)


def _spatial_folder(folder: Path, sample: str) -> tuple[Path, str]:
    """Where positions and scale factors are, and the sample that they belong to."""
    named = [p for p in called(folder, "spatial", sample) if p.is_dir()]
    if (folder / "spatial").is_dir() and not sample:
        return folder / "spatial", sample
    factors = called(folder, re.escape(SCALE_FACTORS), sample)
    pattern = re.compile(rf"{BEFORE}(spatial|{re.escape(SCALE_FACTORS)}(\.gz)?)")
    samples = sorted({match["sample"] or "" for p in (*named, *factors) if (match := pattern.fullmatch(p.name))})
    if len(samples) > 1 and sample not in samples:
        msg = (
            f"{folder} holds {len(samples)} sections ({', '.join(samples[:5])}{', …' if len(samples) > 5 else ''}). "
            f"Read them one by one, by what the names of their files begin with: read_visium({str(folder / samples[0])!r})."
        )
        raise ValueError(msg)
    if samples:
        sample = sample or samples[0]
        return (named[0] if named else folder), sample
    archives = [p for p in folder.iterdir() if _is_of(p, sample) and ARCHIVE.fullmatch(p.name)]
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    msg = f"{folder} has no folder 'spatial', as Space Ranger writes it; it holds {found}."
    if archives:
        spatial = next((p for p in archives if "spatial" in p.name), archives[0])
        msg += f" Unpack the archive, then read again: {_command(spatial)}"
    raise FileNotFoundError(msg)


def _command(archive: Path) -> str:
    """Command that unpacks an archive where it lies."""
    if archive.suffix.lower() == ".zip":
        return f'unzip "{archive}" -d "{archive.parent}"'
    return f'tar -xf "{archive}" -C "{archive.parent}"'


def _refuse_joined(folder: Path) -> None:
    """Refuse what spaceranger aggr wrote. Raises ValueError if that is what the folder holds."""
    if any(called(folder, "aggregation.csv")) or any(called(folder, r"aggr_tissue_positions(_list)?\.csv")):
        raise ValueError(joined_message(folder))


def joined_message(path: Path) -> str:
    """What to do with several sections in one matrix."""
    return (
        f"{path} holds several sections that spaceranger aggr joined, and levelled in depth. Read each section from the 'outs' "
        "folder of its own spaceranger count, and pass the sections as a list."
    )
