"""What options of all networks share: their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self


@dataclass(frozen=True)
class NetworkOptions:
    """Options of a network; each method lists its own as fields, and says here which values make sense."""

    POSITIVE: ClassVar[tuple[str, ...]]
    NOT_NEGATIVE: ClassVar[tuple[str, ...]]
    SHARES: ClassVar[tuple[str, ...]]
    """Fields that are shares, at least 0 and less than 1."""

    if TYPE_CHECKING:  # fields of every method's options, each with a default of its own
        width: int
        members: int

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises
        ------
        ValueError
            If there are some.
        """
        for name in self.POSITIVE:
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                msg = f"{name} must be positive, got {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in self.NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                msg = f"{name} must not be negative, got {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in self.SHARES:
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name} must lie in [0, 1), got {getattr(self, name)!r}."
                raise ValueError(msg)
        if self.width % 8:
            msg = f"width must be a multiple of 8 (attention heads), got {self.width}."
            raise ValueError(msg)

    def offline(self) -> Self:
        """The same for a network whose weights are stored, so that none are downloaded."""
        return self
