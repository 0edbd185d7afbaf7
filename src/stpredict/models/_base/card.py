"""The card of a model that is passed on: what it was trained on, what it reaches, and what it is not for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.version import __version__
from stpredict._sections.niches import is_niche
from stpredict.models._base.files import identity
from stpredict.models._data.folds import MIN_GROUPS
from stpredict.models._trust.trust import Judgement
from stpredict.pp._encoders.catalogue import licence_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stpredict.models._base.contract import Contract

NO_WEIGHTS = "morphology"
"""The encoder that has none, so that no licence binds it."""

EXPRESSION = re.compile(r"(^|[._])expression$")
"""Names of arrays with the expression of reference spots."""

LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def model_card(
    model: Contract,
    repository: str,
    *,
    licence: str,
    tissue: str | None = None,
    cite: str | None = None,
    has_permission: bool = False,
) -> str:
    """Markdown with the hub's metadata at its top.

    Raises ValueError if `licence` or `tissue` are none, the model is one that others trained, or the licence of its
    encoder forbids derivatives.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if not isinstance(licence, str) or not LICENCE.fullmatch(licence):
        msg = f"licence={licence!r} is no name of a licence on the hub, such as 'cc-by-4.0', 'apache-2.0' or 'other'."
        raise ValueError(msg)
    if model.provenance and "base" not in model.config:
        msg = (
            f"{model.provenance['model']} was trained by others, so it is not yours to pass on by a card of its own. What "
            "model.save(path) writes holds what was learned here and no weights: pass that folder on, or the call that makes the model."
        )
        raise ValueError(msg)
    if tissue is not None and (not tissue.strip() or len(tissue.splitlines()) > 1):
        msg = f"tissue={tissue!r} should be one line, such as 'human breast cancer'."
        raise ValueError(msg)
    if not has_permission:
        _refuse_restricted(model)
    tags = ["spatial-transcriptomics", "histology", "gene-expression", *([tissue] if tissue else [])]
    data = ModelCardData(license=licence.lower(), library_name="stpredict", tags=tags)
    parts = [
        f"# {repository.partition('/')[2]}",
        f"Predicts the expression of {len(model.genes):,} genes from H&E images{f' of {tissue}' if tissue else ''}. Made with "
        f"stpredict {__version__}: method `{model.method}`, identity `{identity(model)}`.",
        "## Use",
        _use(model, repository),
        "## Training",
        _training(model, tissue),
        "## What it reaches",
        _reached(model),
        "## Limits",
        _limits(model),
        "## Licence",
        _licences(model, licence, has_permission),
        "## Cite",
        cite or f"This repository with its commit (`{repository}@<commit>`), and stpredict.",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def encoders_of(model: Contract) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """The model's features, keys and records, by the name of the encoder that made them; empty for the user's own."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for key, record in model.config.get("features", {}).items():
        found.setdefault(record.get("encoder", ""), []).append((key, record))
    return found


def trained_along(config: Mapping[str, Any]) -> str | None:
    """Network on pixels that was trained with the model from published weights, if any."""
    options = _base(config).get("options", {})
    return options.get("image_encoder") if options.get("pretrained", True) else None


def _base(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Configuration of the model that an adapted one adapts; its own for others."""
    while "base" in config:
        config = config["base"]["config"]
    return config


def _refuse_restricted(model: Contract) -> None:
    for name in (*encoders_of(model), trained_along(model.config) or ""):
        if "-ND" in (licence := licence_of(name)):
            msg = (
                f"The model learned from features of the encoder {name!r}, whose licence {licence} forbids derivatives. Where "
                "the holder of its rights permits to pass the model on, say so with has_permission=True; else train on "
                "another encoder."
            )
            raise ValueError(msg)


# ---------------------------------------------------------------------- sections of the card


def _use(model: Contract, repository: str) -> str:
    lines = ["import stpredict as st", "", f'model = st.models.load("hf-hub:{repository}")']
    named = [name for name in encoders_of(model) if name != NO_WEIGHTS]
    if "" in named:
        keys = ", ".join(f"`{key}`" for key in model.config["features"])
        lines.append('st.tl.predict_expression(adata, model)  # adata.layers["predicted"]')
        after = f"`adata.obsm` needs {keys}; some of these are features of the makers' own."
    else:
        texts = [f'"{name}"' if licence_of(name) else "network" for name in named]
        whole = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        given = f", encoder={whole}" if named else ""
        lines.append(f'report = st.tl.predict_many("slides", model, "predicted"{given})')
        after = "Slides are tiled and encoded as in training. A commit behind the name, `@<commit>`, is a model that never changes."
        if "network" in texts:
            after += " `network` is the encoder named below, as a torch module or as `stpredict.pp.encode` takes it."
    return "```python\n" + "\n".join(lines) + f"\n```\n\n{after}"


def _training(model: Contract, tissue: str | None) -> str:
    config = _base(model.config)
    sections, patients = config.get("sections", []), _patients(config)
    rows = [
        ("tissue", tissue or "not told"),
        ("sections", f"{len(sections)}"),
        ("patients", f"{len(patients)}" if patients else "not told"),
        ("spots", f"{config.get('n_spots', 0):,}"),
        ("genes", f"{len(model.genes):,} (`model.genes`)"),
        ("units", "log1p of counts per 10,000"),
    ]
    if config is not model.config:
        n = len(model.config["sections"])
        rows.append(("adapted to", f"{model.config['n_spots']:,} measured spots of {n} section{'s' * (n != 1)}"))
    for name, records in encoders_of(model).items():
        rows.append((f"encoder {name}" if name else "features of their own", _encoder(name, records)))
    if along := trained_along(config):
        rows.append(("network on pixels", f"`{along}`, from published weights, trained along"))
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {told} |" for what, told in rows)])


def _encoder(name: str, records: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Weights, windows and scale of the features of one encoder."""
    if not name:
        return ", ".join(f"`{key}`" for key, _ in records)
    first = records[0][1]
    windows = [record.get("niche") or f"{_width(key, record):g} µm" for key, record in records]
    told = [
        f"weights `{first['encoder_hash']}`",
        f"windows of {', '.join(windows)}",
        f"{first['mpp']:.3g} µm per pixel",
    ]
    if "stain_norm" in first:
        told.append(f"stains normalised ({first['stain_norm']})")
    if name != NO_WEIGHTS:
        told.append(f"licence {licence_of(name) or 'not known to stpredict'}")
    return "; ".join(told)


def _width(key: str, record: Mapping[str, Any]) -> float:
    return float(record["niche_um" if is_niche(key) else "spot_um"])


def _patients(config: Mapping[str, Any]) -> set[str]:
    """Patients of training; empty where sections stand for themselves."""
    groups = config.get("groups", [])
    return set() if groups == config.get("sections", []) else set(groups)


def _reached(model: Contract) -> str:
    if model.trust.reliability is None:
        return "Nothing is known: the model was not judged on spots that were held out."
    config = _base(model.config)
    n_sections, n_groups = len(set(config.get("sections", []))), len(set(config.get("groups", [])))
    held = "sections" if n_sections > 1 else "strips of the only section"
    if n_groups >= MIN_GROUPS and _patients(config):
        held = "patients"
    also = " and on measured spots left out of the adaptation" if config is not model.config else ""
    reached, _ = model.trust.expected(Judgement.unknown(0, ""), np.arange(len(model.genes)))
    mean, low, high = reached.mean(axis=1)
    few, many = np.quantile(reached[0], [0.1, 0.9])
    return (
        f"Pearson correlation of a gene over the spots of a section, on {held} held out of training{also}: {mean:.2f} on average over "
        f"genes ({few:.2f} to {many:.2f} for the middle 80 % of genes). The 90 % interval of one gene on a further section "
        f"is {low:.2f} to {high:.2f} on average. The same held-out spots chose the model's hyper-parameters, and what was "
        "held out is of the same study. Another study's slides may reach less: `stpredict.tl.evaluate` measures "
        "it on yours."
    )


def _limits(model: Contract) -> str:
    config, patients = _base(model.config), _patients(_base(model.config))
    lines = [
        "For research only: not for diagnosis, nor for any decision about a patient.",
        "Predictions are no measurements: they are smoother, and differences between conditions can be the encoder's.",
        'Slides of other tissues, stains and scales are judged in `uns["predicted"]["domain"]`; believe nothing of one that is '
        '"outside".',
    ]
    if len(patients) < MIN_GROUPS:
        known = (
            f"Only {len(patients)} patient{'s' * (len(patients) != 1)}" if patients else "Not told how many patients"
        )
        lines.append(f"{known}: what it reaches on others is not known.")
    lines.append(f"`model.json` names the sections {'and patients ' * bool(patients)}of training.")
    if config is not model.config:
        lines.append(
            f"Holds what was measured on {model.config['n_spots']:,} spots that it was adapted to, as residuals."
        )
    if not model.config.get("has_bank", True):
        before, after = model.config["without_bank"]["inner_pcc"]
        lines.append(
            "Holds no expression of single training spots. With these it would predict better: on inner held-out spots the mean "
            f"correlation is {after:.3f} without and {before:.3f} with them."
            if after < before
            else "Holds no expression of single training spots. On inner held-out spots it predicts as well as with them: the mean "
            f"correlation is {after:.3f} without and {before:.3f} with them."
        )
    if held := [len(values) for name, values in model.arrays.items() if EXPRESSION.search(name)]:
        lines.append(f"Holds the expression of {max(held):,} training spots, which it predicts from.")
    return "\n".join(f"- {line}" for line in lines)


def _licences(model: Contract, licence: str, has_permission: bool) -> str:
    told = [f"The model: {licence.lower()}."]
    named = [name for name in (*encoders_of(model), trained_along(model.config)) if name not in (None, "", NO_WEIGHTS)]
    told += [
        f"Weights of the encoder `{name}`, which are not in this repository: {licence_of(name) or 'not known to stpredict; ask its makers'}."
        for name in named
        if name != trained_along(model.config)
    ]
    if along := trained_along(model.config):
        told.append(f"It contains weights that began as `{along}`: {licence_of(along) or 'see the licence of these'}.")
    if has_permission:
        told.append("Its makers say that the holder of the encoder's rights permits to pass the model on.")
    return " ".join(told)
