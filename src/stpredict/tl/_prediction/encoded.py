"""Features that a published model takes, made for one prediction where the data lack them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anndata import AnnData

from stpredict._sections.open import Opened, copy_of, table_of
from stpredict.models.published.needs import check_image
from stpredict.pp import encode, tiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stpredict._core.typing import Data
    from stpredict._sections.open import Where
    from stpredict.models import ExpressionModel


def encode_missing(opened: Opened, model: ExpressionModel, record: dict[str, Any]) -> None:
    """Give the opened sections the features of a published `model`'s own encoder, where they have none.

    The data stay as they are: tiles and features are those of a copy without expression. Other models say by a hash how
    their features were made, and nothing is done for them. `record` is told the scale.
    """
    made = model.config.get("features", {})
    lacking = [key for key in made if _by_name(made[key]) and key not in opened.table.obsm]
    if not lacking:
        return
    for section in opened.sections:
        check_image(section, made[lacking[0]]["mpp"])
    library_key, table_key = opened.where.library_key, opened.where.table_key
    bare = _without_expression(opened.data, opened.where)
    for key in lacking:
        tiles(bare, spot_um=made[key]["spot_um"], library_key=library_key, table_key=table_key)
        how = {"niche": False, "stain_norm": made[key].get("stain_norm"), "key_added": key}
        encode(bare, made[key]["encoder"], **how, library_key=library_key, table_key=table_key)
    opened.sections = Opened(bare, opened.where).sections
    record["mpp"] = opened.sections[0].record(lacking[0])["mpp"]


def _by_name(record: Mapping[str, Any]) -> bool:
    """Whether features are those of an encoder that is known by its name, as published models have it."""
    return "encoder" in record and "encoder_hash" not in record


def _without_expression(data: Data, where: Where) -> Data:
    table = table_of(data, where.table_key)
    bare = AnnData(obs=table.obs.copy(), obsm=dict(table.obsm), obsp=dict(table.obsp), uns=dict(table.uns))
    if table is data:
        return bare
    copy = copy_of(data)
    copy.tables[where.table_key or next(iter(copy.tables))] = bare
    return copy
