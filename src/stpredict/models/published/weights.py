"""Files of published models: on the hub or in a folder of the user's, checked, and read without unpickling objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict._core.files import digest, expanded, replacing, tensor_errors
from stpredict._core.hub import SECONDS, brief, check_answers
from stpredict._core.settings import settings
from stpredict._core.warning import warn
from stpredict.models.published.exported import exported_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from stpredict.models.published.cards import Card, HubFile

CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt")
"""Endings of files that torch pickles, which are read with ``weights_only=True`` and kept as safetensors."""


@dataclass(frozen=True)
class Weights:
    """The files of a model on this machine.

    Attributes
    ----------
    files
        Where each is, by what it is.
    sha256
        Digest of each.
    folder
        Folder that the user named; empty where they come from the hub.
    revision
        Commit of the hub's repository; empty where they come from a folder.
    """

    files: dict[str, Path]
    sha256: dict[str, str]
    folder: str = ""
    revision: str = ""

    def record(self) -> dict[str, Any]:
        """What a saved model keeps of it, ready for JSON."""
        return {"folder": self.folder, "revision": self.revision, "sha256": dict(self.sha256)}


NamesIn = Callable[[Path], "dict[str, str] | None"]
"""What says how a model's files are called in a folder, where they are not called as on the hub."""


def in_folder(card: Card, folder: str | Path, names_in: NamesIn) -> Weights:
    """The model's files in a folder of the user's, called as on the hub or as `names_in` says.

    Raises FileNotFoundError if the folder or one of them is missing.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        msg = f"There is no folder {folder}. Pass path= the folder that holds {_listed(card)} of {card.title} ({card.source})."
        raise FileNotFoundError(msg)
    found, called = {}, names_in(folder) or {}
    for what, wanted in card.files.items():
        names = [called[what]] if called else [wanted.name, Path(wanted.name).name]
        there = [folder / name for name in names if (folder / name).exists()]
        if not there:
            msg = (
                f"{folder} holds no {names[-1]}, the {what} of {card.title}. Put {_listed(card)} there (see "
                f"{card.source}), or leave path= out to take them from the hub."
            )
            raise FileNotFoundError(msg)
        found[what] = there[0]
    return Weights(found, _digests(found), folder=str(folder.absolute()))


def on_hub(card: Card, revision: str | None = None) -> Weights:
    """The model's files on the hub, downloaded where they are not on this machine yet.

    `revision` is a commit, branch or tag of the repository of its network. Raises OSError if they cannot be had; the
    message says why, and what to do.
    """
    home = card.files["network"].repository
    wanted = {
        what: file._replace(revision=revision or file.revision) if file.repository == home else file
        for what, file in card.files.items()
    }
    kept = {what: _kept(file) for what, file in wanted.items()}
    if missing := [wanted[what] for what, path in kept.items() if path is None]:
        try:
            check_answers(missing[0].repository)
        except OSError as error:
            raise OSError(_no_access(card, missing[0], brief(error))) from error
        _tell_licence(card)
    found = {what: path or _download(card, wanted[what]) for what, path in kept.items()}
    return Weights(found, _digests(found), revision=found["network"].parents[_depth(wanted["network"])].name)


def again(card: Card, record: Mapping[str, Any], names_in: NamesIn) -> Weights:
    """The files that a saved model was made with.

    Raises OSError if they cannot be had any more, ValueError if they are others than then.
    """
    folder = record["folder"]
    weights = in_folder(card, folder, names_in) if folder else on_hub(card, record["revision"])
    if changed := [what for what, sha in record["sha256"].items() if weights.sha256.get(what) != sha]:
        where = folder or f"revision {record['revision']} of {card.files['network'].repository}"
        msg = (
            f"The {' and '.join(changed)} of {card.title} in {where} are not those that this model was made with. Put the "
            f"same files there, or make it anew with stpredict.models.pretrained({card.name!r})."
        )
        raise ValueError(msg)
    return weights


# ---------------------------------------------------------------------- the hub


def _kept(file: HubFile) -> Path | None:
    """The file in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repository, file.name, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def _download(card: Card, file: HubFile) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return Path(hf_hub_download(file.repository, file.name, revision=file.revision, etag_timeout=SECONDS))
    except GatedRepoError as error:
        msg = (
            f"{card.title} is gated: ask for access at huggingface.co/{file.repository}, log in with `hf auth login`, and "
            f"call again; its licence is {card.licence}."
        )
        raise PermissionError(msg) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise OSError(_no_access(card, file, brief(error))) from error


def _no_access(card: Card, file: HubFile, why: str) -> str:
    at = f"@{file.revision}" if file.revision else ""
    return (
        f"{file.name} of {card.title} cannot be had from huggingface.co/{file.repository}{at}: {why}. Download "
        f"{_listed(card)} elsewhere and pass path= the folder that holds them; {card.source} tells of them."
    )


def _tell_licence(card: Card) -> None:
    use = "" if card.commercial else ", not for commercial use"
    warn(f"{card.title} is downloaded now ({card.gigabytes:g} GB). Licence of its weights: {card.licence}{use}.")


def _listed(card: Card) -> str:
    return " and ".join(Path(file.name).name for file in card.files.values())


def _depth(file: HubFile) -> int:
    """How many folders a file lies below the one of its commit."""
    return len(Path(file.name).parts) - 1


# ---------------------------------------------------------------------- tensors


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    return {what: digest(path) for what, path in files.items()}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file of weights, mapped from the disk rather than read; no objects are unpickled.

    Checkpoints of torch are read once with ``weights_only=True`` and kept as safetensors in
    ``stpredict.settings.cache_dir``, under their digest. Raises ValueError if the file is damaged, or holds something
    else than named tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".pt2":
        return exported_tensors(path)
    if path.suffix in CHECKPOINTS:
        path = _converted(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        msg = f"{path} is damaged ({brief(error)}); get it again."
        raise ValueError(msg) from error


def _converted(path: Path) -> Path:
    """A checkpoint of torch as safetensors, made where it is not there yet."""
    from safetensors.torch import save_file

    kept = settings.cache_dir / "published" / f"{digest(path)}.safetensors"
    if not kept.exists():
        tensors = _checkpoint(path)
        with replacing(kept) as new, tensor_errors(new):
            save_file(tensors, new)
    return kept


def _checkpoint(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("state_dict", "model"):
            if isinstance(content, dict) and isinstance(content.get(name), dict):
                content = content[name]
        return {str(name): tensor.detach().clone().contiguous() for name, tensor in content.items()}
    except Exception as error:  # (a damaged or foreign file raises every kind of error)
        msg = f"{path} is no file of named tensors, or damaged ({brief(error)}); nothing else is read from it. Get it again."
        raise ValueError(msg) from error
