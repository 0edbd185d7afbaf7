"""What a model learned, as arrays among its others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    import numpy as np


class StoredArrays:
    """A frozen dataclass of arrays that a model stores under the names of its fields behind a prefix.

    Attributes
    ----------
    PREFIX, SHAPES
        What their names start with; names and dimensions, see `stpredict.models._base.files.check_shapes`.
    """

    PREFIX: ClassVar[str]
    SHAPES: ClassVar[dict[str, tuple[str | int, ...]]]

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model stores of it."""
        return {f"{self.PREFIX}{name}": values for name, values in vars(self).items()}

    @classmethod
    def stored_in(cls, arrays: Mapping[str, np.ndarray]) -> Self | None:
        """What `arrays` returned, among the arrays of a model; None where there is none."""
        if not cls.SHAPES.keys() <= arrays.keys():
            return None
        return cls(**{name.removeprefix(cls.PREFIX): arrays[name] for name in cls.SHAPES})
