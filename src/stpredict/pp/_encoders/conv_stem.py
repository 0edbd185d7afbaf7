"""The stem of CTransPath: convolutions in place of a Swin transformer's patch embedding.

After Wang et al., Transformer-based unsupervised contrastive learning for histopathological image classification (Medical
Image Analysis 81:102559, 2022).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class ConvStem(nn.Module):
    """Two convolutions that halve the tile, and one over channels; takes the arguments of timm's ``PatchEmbed``."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size, self.patch_size = (height, width), (patch_size, patch_size)
        self.grid_size = height // patch_size, width // patch_size
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        channels = [in_chans, embed_dim // 8, embed_dim // 4]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(channels[-1], embed_dim, 1))
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, tiles: Tensor) -> Tensor:
        """(batch, height / 4, width / 4, channels) of tiles (batch, 3, height, width)."""
        embedded: Tensor = self.norm(self.proj(tiles).permute(0, 2, 3, 1))
        return embedded
