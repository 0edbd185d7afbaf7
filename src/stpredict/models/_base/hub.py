"""Models in repositories of the Hugging Face hub: sent there, and fetched."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stpredict._core.hub import ON_HUB, SECONDS, brief, check_answers
from stpredict.models._base.files import ARRAYS, REST

if TYPE_CHECKING:
    from collections.abc import Callable

CARD = "README.md"
LOG_IN = "log in with `hf auth login`"


def on_hub(path: str | Path) -> bool:
    """Whether `path` names a repository."""
    return str(path).startswith(ON_HUB)


def check_repository(repository: str) -> None:
    """Refuse what is no name of a repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    why = "give the laboratory and the name"
    try:
        validate_repo_id(repository)
        if repository.count("/") == 1:
            return
    except HFValidationError as error:
        why = brief(error)
    msg = f"{repository!r} is no name of a repository such as 'lab/breast-visium': {why}."
    raise ValueError(msg)


def send(save: Callable[[Path], None], card: str, repository: str, *, private: bool) -> str:
    """Send a model and its card in one commit; returns the name under which it is loaded.

    Raises OSError if the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    with TemporaryDirectory() as folder:
        new = Path(folder) / "model"
        save(new)
        (new / CARD).write_text(card, encoding="utf-8")
        try:
            check_answers()
            api = HfApi(library_name="stpredict")
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=new,
                commit_message="Model and card by stpredict",
            )
        except Exception as error:  # (of either HTTP library that the client may use)
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
            why = {
                401: f"the hub does not know who you are; {LOG_IN}",
                403: f"you may not write to {repository.partition('/')[0]!r}; ask its owners, or choose another name",
            }.get(status, brief(error).rstrip("."))
            msg = f"The model could not be sent to {repository}: {why}."
            raise OSError(msg) from error
    return f"{ON_HUB}{repository}@{commit.oid}"


def fetched(name: str) -> Path:
    """Folder on this machine with the model of ``"hf-hub:<repository>"`` or ``"hf-hub:<repository>@<revision>"``.

    Raises ValueError if that is no name of a repository; FileNotFoundError if it holds no model, or cannot be had.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(ON_HUB).partition("@")
    check_repository(repository)
    away = _why_away()
    how: dict[str, Any] = {"allow_patterns": [REST, ARRAYS], "etag_timeout": SECONDS, "local_files_only": bool(away)}
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, **how))
    except Exception as error:  # (of either HTTP library that the client may use)
        why = f"{away}, and there is no whole copy on this machine" if away else _reason(error, revision)
        msg = f"There is no model to be had at {name}: {why}."
        raise FileNotFoundError(msg) from error
    if missing := [file for file in (REST, ARRAYS) if not (folder / file).is_file()]:
        msg = f"There is no model of stpredict at {name}: {' and '.join(missing)} missing{f' here, and {away}' * bool(away)}."
        raise FileNotFoundError(msg)
    return folder


def _why_away() -> str:
    """Why the hub does not answer; empty where it does."""
    try:
        check_answers()
    except OSError as error:
        return brief(error)
    return ""


def _reason(error: Exception, revision: str) -> str:
    from huggingface_hub import errors

    told: dict[type[Exception], str] = {
        errors.GatedRepoError: f"ask for access on its page, and {LOG_IN}",
        errors.RepositoryNotFoundError: f"check the name; if the repository is private, {LOG_IN}",
        errors.RevisionNotFoundError: f"the repository has no revision {revision!r}",
        errors.LocalEntryNotFoundError: "the hub answers with an error; try again later",
    }
    return next((why for kind, why in told.items() if isinstance(error, kind)), brief(error).rstrip("."))
