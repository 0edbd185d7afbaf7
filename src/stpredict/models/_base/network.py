"""What models that train networks share: options, seed, checkpoints, and the weights of the ensemble's members."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stpredict._core.checks import one_of
from stpredict._core.device import resolve_device
from stpredict._core.settings import settings
from stpredict.models._base.featured import FeatureModel
from stpredict.models._base.schema import check_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    import numpy as np
    from torch import Tensor, nn

    from stpredict._sections.section import Section
    from stpredict.models._base.files import Stored
    from stpredict.models._base.options import NetworkOptions
    from stpredict.models._data.rows import RowStore
    from stpredict.models._data.table import Table
    from stpredict.models._training.ensemble import Ensemble


class NetworkModel(FeatureModel):
    """A model that trains an ensemble of networks, with different seeds, for as many epochs as serve held-out spots.

    Parameters
    ----------
    features, min_counts
        See `stpredict.models._base.featured.FeatureModel`.
    preset
        ``"default"`` is what measured best, ``"published"`` the recipe of the paper as far as it is known.
    seed
        Seed of everything random; by default ``stpredict.settings.seed``.
    checkpoint
        Folder of checkpoints; an interrupted run that is found there is continued.
    show_progress
        Show a progress bar; by default ``stpredict.settings.progress``.
    **options
        Options that differ from the preset.

    Attributes
    ----------
    presets
        Name → options.
    """

    seeded: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, NetworkOptions]]

    def __init__(
        self,
        *,
        features: str | Sequence[str] | None = None,
        min_counts: int = 50,
        preset: str | None = None,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        show_progress: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(features=features, min_counts=min_counts)
        self.options = checked(self.method, self.presets, preset or "default", options)
        self.seed = settings.seed if seed is None else seed
        if not (isinstance(self.seed, int) and self.seed >= 0):
            msg = f"seed must be a non-negative integer, got {self.seed!r}."
            raise ValueError(msg)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self._show_progress = settings.progress if show_progress is None else show_progress

    @staticmethod
    @abstractmethod
    def build_network(options: NetworkOptions, config: Mapping[str, Any], n_genes: int) -> nn.Module:
        """Build an untrained network for the features in `config` and `n_genes` genes to learn from."""

    def _table(
        self, sections: Sequence[Section], genes: Sequence[str], groups: Sequence[str], store: RowStore | None = None
    ) -> Table:
        """Table of the spots to learn from; expression that was not measured is filled in, as networks take it all."""
        return super()._table(sections, genes, groups, store).filled(store)

    def _ensemble(self, n_genes: int) -> Ensemble:
        """The ensemble to train; options and seed go to ``config``."""
        from stpredict.models._training.ensemble import Ensemble

        self.config |= {"options": asdict(self.options), "seed": self.seed}
        build = partial(self.build_network, self.options, self.config, n_genes)
        return Ensemble(build, self.options, self.seed, self.checkpoint, self._show_progress)

    def _networks(self, arrays: Mapping[str, np.ndarray] | None = None) -> Iterator[nn.Module]:
        """Trained members one after the other, from ``arrays`` by default, on the device and in evaluation mode."""
        import torch

        device, arrays = resolve_device(), self.arrays if arrays is None else arrays
        for member in range(self.options.members):
            with torch.random.fork_rng(devices=[]):  # first weights are drawn at random, to be replaced
                network = self.build_network(self.options.offline(), self.config, len(self.genes)).eval()
            network.load_state_dict(network_state(arrays, member))
            yield network.to(device)

    # ------------------------------------------------------------------ storage

    @classmethod
    def from_stored(cls, stored: Stored, path: str | Path) -> Self:
        """Rebuild the model from what was read from `path`."""
        check_options(stored, cls.presets["default"], path)
        model = super().from_stored(stored, path)
        model.options, model.seed = cls._stored_options(stored), stored.config["seed"]
        return model

    @classmethod
    def _stored_options(cls, stored: Stored) -> NetworkOptions:
        return replace(cls.presets["default"], **stored.config["options"])

    @classmethod
    def shapes_of(cls, stored: Stored) -> dict[str, tuple[str | int, ...]]:
        """Arrays that a model with these options has, weights of its networks among them."""
        import torch

        options = cls._stored_options(stored)
        with torch.device("meta"):
            network = cls.build_network(options.offline(), stored.config, len(stored.genes))
        weights = network_arrays([network] * options.members)
        return super().shapes_of(stored) | {name: tuple(tensor.shape) for name, tensor in weights.items()}


def checked(
    method: str, presets: Mapping[str, NetworkOptions], preset: str, changed: Mapping[str, Any]
) -> NetworkOptions:
    """Take the options of `preset`, with changes.

    Raises ValueError or TypeError if the preset or an option is unknown, or a value makes no sense.
    """
    one_of(preset, presets, "preset")
    known = [field.name for field in fields(presets[preset])]
    if unknown := [name for name in changed if name not in known]:
        msg = f"method={method!r} has no option {', '.join(unknown)}; it has {', '.join(known)}."
        raise TypeError(msg)
    options = replace(presets[preset], **changed)
    options.check()
    return options


def network_arrays(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Weights of all members by the names that they are stored under, ``network.<member>.<name>``."""
    return {
        f"network.{member}.{name}": tensor
        for member, network in enumerate(networks)
        for name, tensor in network.state_dict().items()
    }


def network_state(arrays: Mapping[str, np.ndarray], member: int) -> dict[str, Tensor]:
    """Weights of one member, as its network loads them."""
    import torch

    prefix = f"network.{member}."
    return {name.removeprefix(prefix): torch.from_numpy(a) for name, a in arrays.items() if name.startswith(prefix)}
