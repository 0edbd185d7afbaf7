"""Whether weights of a network can be had: kept on this machine, or from a hub that answers."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 5
"""How long a hub may take to answer."""

ON_HUB = "hf-hub:"
"""What names of repositories start with, so that they are no paths."""


def check_reachable(hub_id: str | None) -> None:
    """Say soon that a hub cannot be reached, where its own client would try again and again.

    Raises OSError if it cannot, and nothing of `hub_id` is kept on this machine.
    """
    from huggingface_hub import constants

    kept = Path(constants.HF_HUB_CACHE) / f"models--{hub_id}".replace("/", "--")
    if hub_id and not kept.is_dir():
        check_answers(hub_id)


def check_answers(hub_id: str | None = None) -> None:
    """Say soon that the hub cannot be reached, whatever of `hub_id` is kept on this machine.

    Raises OSError if it cannot, or may not.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        msg = f"HF_HUB_OFFLINE forbids to reach {constants.ENDPOINT}"
        if hub_id:
            msg = f"{hub_id} is not on this machine, and HF_HUB_OFFLINE forbids to download it"
        raise OSError(msg)
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # (of either HTTP library that the client may use)
        msg = f"{constants.ENDPOINT} cannot be reached ({brief(error)})"
        raise OSError(msg) from error


def brief(error: Exception) -> str:
    """The first line of what an error says."""
    text = str(error).strip() or type(error).__name__
    text = f"{type(error).__name__}: {text}" if isinstance(error, KeyError | AssertionError) else text
    return text.splitlines()[0][:200]


@contextmanager
def weights_of(image_encoder: str) -> Iterator[None]:
    """Turn a failure to load the published weights of a network that is trained along into a message with its remedy.

    Raises ValueError if weights are not on this machine and cannot be downloaded.
    """
    import timm

    try:
        check_reachable(timm.get_pretrained_cfg(image_encoder).hf_hub_id)
        yield
    except OSError as error:
        msg = (
            f"The weights of image_encoder={image_encoder!r} cannot be had: {brief(error)}. Train with "
            "pretrained=False, which starts from random weights, or once while online."
        )
        raise ValueError(msg) from error
