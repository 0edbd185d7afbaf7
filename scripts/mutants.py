"""Take parts out of the package, one at a time, and list those whose loss no test notices.

Run as ``python scripts/mutants.py`` for the named mutants, with ``--only WORD`` for those whose name has it, and with
``--random 20 --seed 1`` for twenty small changes drawn over ``models``, ``_evaluation`` and ``_sections``. Everything
happens in a temporary copy; the tree stays as it is. The exit status is 1 if a mutant survives.

mutmut 3 runs the whole suite before its first mutant and cosmic-ray changes the tree itself; neither draws at random.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from mutants_of_networks import NETWORKS

ROOT = Path(__file__).resolve().parents[1]
PARTS, PRESETS = "tests/models/test_align_st_parts.py", "tests/models/test_presets.py"
NUMBERS = "tests/models/test_same_numbers.py"
ALIGN_ST = "src/stpredict/models/align_st/"
LOOP, ENSEMBLE = "src/stpredict/models/_training/loop.py", "src/stpredict/models/_training/ensemble.py"
SCHEDULE = "tests/models/training/test_schedule.py"

NAMED: dict[str, tuple[str, str, str, list[str]]] = {
    "ALIGN-ST: gene graph": (
        ALIGN_ST + "_network.py",
        "return genes if self.graph is None else self.graph(genes, pool, itself)",
        "return genes",
        [PARTS],
    ),
    "ALIGN-ST: gene graph in training only": (
        ALIGN_ST + "_training.py",
        "after = [network.genes(before[part], before[seen], itself[part]) for part in rows]",
        "after = [before]",
        [PARTS],
    ),
    "ALIGN-ST: neighbours among the drawn genes only": (
        ALIGN_ST + "_network.py",
        "return torch.cat([described, others])",
        "return described",
        [PARTS],
    ),
    "ALIGN-ST: gate of the gene graph": (
        ALIGN_ST + "_network.py",
        "return rows, F.softmax(self.score(gate)[..., 0], dim=1)",
        "return rows, torch.full(rows.shape, 1 / rows.shape[1])",
        [PARTS],
    ),
    "ALIGN-ST: nuclei": (
        ALIGN_ST + "_network.py",
        "tile = torch.cat([ask(*pair) for pair in pairs])",
        "pass",
        [PARTS],
    ),
    "ALIGN-ST: attention over nuclei": (
        ALIGN_ST + "_network.py",
        "return F.softmax(scores / tile.shape[1] ** 0.5, dim=1)",
        "return torch.full_like(scores, 1 / scores.shape[1])",
        [PARTS],
    ),
    "ALIGN-ST: text": (
        ALIGN_ST + "_network.py",
        "out = out + self.text(genes.facts, genes.known, tiles)",
        "out = out + 0 * self.text(genes.facts, genes.known, tiles)",
        [PARTS],
    ),
    "ALIGN-ST: visual prompts do not ask": (
        ALIGN_ST + "_network.py",
        "visual = visual + ask(visual, tiles[None], tiles[None], need_weights=False)[0]",
        "pass",
        [PARTS],
    ),
    "ALIGN-ST: share of the visual prompts": (
        ALIGN_ST + "_network.py",
        "self.alpha * across(visual) + (1 - self.alpha) * tokens[:, 1 : 1 + n]",
        "(1 - self.alpha) * across(visual) + self.alpha * tokens[:, 1 : 1 + n]",
        [PARTS],
    ),
    "ALIGN-ST: GraphSAGE": (
        ALIGN_ST + "_network.py",
        "return self.refine(share.whole(tile), slide.near, slide.alike, share)",
        "return share.whole(tile)",
        [PARTS],
    ),
    "ALIGN-ST: GraphSAGE over the lattice": (
        ALIGN_ST + "_network.py",
        "_mean_over(tile, near), _mean_over(tile, alike)",
        "0 * _mean_over(tile, near), _mean_over(tile, alike)",
        [PARTS],
    ),
    "ALIGN-ST: GraphSAGE over look-alikes": (
        ALIGN_ST + "_network.py",
        "_mean_over(tile, near), _mean_over(tile, alike)",
        "_mean_over(tile, near), 0 * _mean_over(tile, alike)",
        [PARTS],
    ),
    "ALIGN-ST: look-alikes are any spots": (
        ALIGN_ST + "_slides.py",
        "kneighbors(points, return_distance=False)",
        "kneighbors(points[::-1], return_distance=False)",
        [PARTS],
    ),
    "ALIGN-ST: level of unseen genes": (
        ALIGN_ST + "_model.py",
        "standard += level",
        "pass",
        [PARTS],
    ),
    "ALIGN-ST: deviation of unseen genes": (
        ALIGN_ST + "_model.py",
        "standard *= sd",
        "pass",
        [PARTS],
    ),
    "ALIGN-ST: level and deviation from text": (
        ALIGN_ST + "_genes.py",
        "whole = whole.loc[[*seen, *others]]",
        "whole = whole.loc[[*seen, *others]]\n    whole.loc[others, MOMENTS] = own.median().to_numpy()",
        [PARTS],
    ),
    "turns and flips of tiles in training": (
        "src/stpredict/models/nn/_tokens.py",
        "x = turn_and_flip(x)",
        "pass",
        ["tests/models/test_nn.py"],
    ),
    "warm-up": (LOOP, "warm = min((step + 1) / rise, 1) if rise else 1", "warm = 1", [SCHEDULE]),
    "fall of the learning rate": (
        LOOP,
        "(1 - plan.final_rate) * self._to_go(step)",
        "(1 - plan.final_rate)",
        [SCHEDULE],
    ),
    "rise of weight decay": (LOOP, '.param_groups[0]["weight_decay"] = plan.weight_decay + change', "", [SCHEDULE]),
    "warm-up of methods": (ENSEMBLE, "            warm_up=options.warm_up,\n", "", [SCHEDULE]),
    "last rate of methods": (ENSEMBLE, "            final_rate=options.final_rate,\n", "", [SCHEDULE]),
    "last weight decay of methods": (
        ENSEMBLE,
        "            final_weight_decay=options.final_weight_decay,\n",
        "",
        [SCHEDULE],
    ),
    "gene structure: distance": (
        "src/stpredict/models/_base/spotwise.py",
        'return self.structure.distance(mean_features(section, list(self.config["features"])))',
        "return 1.0",
        ["tests/tl/test_reference.py"],
    ),
    "gene structure": (
        "src/stpredict/models/_base/spotwise.py",
        "means = self.drawn(predicted.map(itemgetter(0)), self.distance(section))",
        "means = predicted.map(itemgetter(0))",
        ["tests/tl/test_reference.py"],
    ),
} | NETWORKS
"""By name: a file, a text that it has once, what takes its place, and arguments of pytest that should notice."""

DRAWN = ("models", "_evaluation", "_sections")

TESTS: dict[str, list[str]] = {
    "models/align_st/_reference": ["tests/models/test_align_st_genes.py", "tests/models/test_align_st.py"],
    "models/align_st": [
        PRESETS,
        "tests/models/test_align_st_values.py",
        "tests/models/test_align_st_[nghp]*.py",
        "tests/models/test_align_st_attention.py",
        "tests/models/test_align_st.py",
    ],
    "models/cmrcnet": [PRESETS, "tests/models/test_cmrcnet_parts.py", "tests/models/test_cmrcnet.py"],
    "models/st_align": [PRESETS, "tests/models/test_st_align_parts.py", "tests/models/test_st_align.py"],
    "models/_aligned": [
        "tests/models/test_aligned_by_hand.py",
        PRESETS,
        "tests/models/test_*_parts.py",
        "tests/models/test_cmrcnet.py",
        "tests/models/test_st_align.py",
    ],
    "models/consensus": [
        "tests/models/test_consensus_weights.py",
        "tests/models/test_consensus.py",
        "tests/tl/test_reference.py",
        "tests/models/test_without_bank.py",
    ],
    "models/published": ["tests/models/published/test_direct.py", "tests/models/published"],
    "models/adapted/calibrated": ["tests/models/published/test_calibrate.py", "tests/models/test_adapted.py"],
    "models/adapted": ["tests/models/test_correction.py", "tests/models/test_adapted.py", "tests/tl/test_adapt.py"],
    "models/baselines": ["tests/models/test_baselines.py", "tests/models/test_mixture.py"],
    "models/_retrieval": [
        "tests/models/test_search.py",
        "tests/models/test_bank.py",
        "tests/tl/test_retrieve.py",
        "tests/models/test_without_bank.py",
    ],
    "models/_reference": [
        "tests/models/test_reference_numbers.py",
        "tests/models/test_gene_structure.py",
        "tests/tl/test_reference.py",
    ],
    "models/_reference/unseen": [
        "tests/models/test_reference_numbers.py",
        "tests/models/test_unseen_genes.py",
        "tests/tl/test_reference.py",
    ],
    "models/_training": [
        "tests/models/training/test_loop.py",
        "tests/models/training/test_[cs]*.py",
        "tests/models/training/test_[pr]*.py",
    ],
    "models/_trust/domain": ["tests/models/test_domain.py", "tests/models/test_trust.py"],
    "models/_trust/reliability": ["tests/models/test_reliability.py", "tests/models/test_trust.py"],
    "models/_trust/texture": ["tests/models/test_texture.py", "tests/models/test_trust.py"],
    "models/_trust": [
        "tests/models/test_judgement.py",
        "tests/models/test_reliability.py",
        "tests/models/test_trust.py",
        "tests/tl/test_predict.py",
    ],
    "models/nn": ["tests/models/test_nn.py", "tests/models/test_*_parts.py", "tests/models/test_cmrcnet.py"],
    "models/_base/card": ["tests/models/test_card_text.py", "tests/models/test_card.py"],
    "models/_base/described": ["tests/models/test_described.py"],
    "models/_base/files": [
        "tests/models/test_config_fields.py",
        "tests/models/test_store.py",
        "tests/models/test_hub.py",
    ],
    "models/_base/history": ["tests/models/test_described.py"],
    "models/_base/hub": ["tests/models/test_hub.py"],
    "models/_base/model": ["tests/models/test_hub.py"],
    "models/_base/load": ["tests/models/test_config_fields.py", "tests/models/test_schema.py"],
    "models/_base/options": [
        "tests/models/test_config_fields.py",
        "tests/models/test_schema.py",
        "tests/models/test_presets.py",
    ],
    "models/_base/schema": ["tests/models/test_config_fields.py", "tests/models/test_schema.py"],
    "models/_base/network": [
        "tests/models/test_config_fields.py",
        "tests/models/test_presets.py",
        "tests/models/test_nn.py",
        "tests/models/training",
        "tests/models/test_schema.py",
    ],
    "models/_base": [
        "tests/models/test_store.py",
        "tests/models/test_schema.py",
        "tests/models/test_design.py",
        "tests/models/test_places.py",
        "tests/models/test_baselines.py",
    ],
    "models/_data/features": [
        "tests/models/test_design.py",
        "tests/pp/test_niches.py",
        "tests/tl/test_subsets.py",
        "tests/models/test_baselines.py",
    ],
    "models/_data/table": ["tests/models/test_tables.py", "tests/models/test_not_measured.py"],
    "models/_data/folds": ["tests/models/test_tables.py", "tests/models/test_baselines.py"],
    "models/_data/linalg": ["tests/models/test_tables.py", "tests/models/test_baselines.py"],
    "models/_data/chunks": ["tests/models/test_tables.py", "tests/models/test_parts.py"],
    "models/_data/rows": ["tests/models/training/test_rows.py", "tests/tl/test_stream.py"],
    "models/_data/pixels": ["tests/models/test_cmrcnet.py"],
    "models/_data": [
        "tests/models/test_parts.py",
        "tests/models/test_design.py",
        "tests/models/test_not_measured.py",
        "tests/tl/test_subsets.py",
        "tests/models/training/test_rows.py",
        "tests/models/test_baselines.py",
    ],
    "models/widths": ["tests/pp/test_widths.py", "tests/models/test_consensus.py"],
    "models": ["tests/tl/test_train.py", "tests/models/test_baselines.py"],
    "_evaluation/agreement": ["tests/tl/test_domains.py"],
    "_evaluation/units": [
        "tests/evaluation/test_stated.py",
        "tests/tl/test_compare_methods.py",
        "tests/pl/test_scores_figure.py",
    ],
    "_evaluation/labels": ["tests/evaluation/test_labels.py", "tests/tl/test_tumor.py"],
    "_evaluation/metrics": ["tests/evaluation/test_metrics.py", "tests/tl/test_evaluate.py"],
    "_evaluation/scoring": [
        "tests/evaluation/test_scores_by_hand.py",
        "tests/evaluation/test_scoring.py",
        "tests/tl/test_evaluate.py",
    ],
    "_evaluation": ["tests/evaluation", "tests/tl/test_evaluate.py", "tests/tl/test_tumor.py"],
    "_sections/cells": ["tests/sections/test_cells_scale.py", "tests/io/test_cells.py"],
    "_sections/image_choice": ["tests/sections/test_image_choice.py", "tests/io/test_spatialdata.py"],
    "_sections/measured": ["tests/sections/test_known.py", "tests/models/test_not_measured.py"],
    "_sections/niches": [
        "tests/sections/test_surroundings.py",
        "tests/pp/test_niches.py",
        "tests/models/test_card.py",
        "tests/models/test_st_align_parts.py",
    ],
    "_sections/on_tissue": [
        "tests/sections/test_picture.py",
        "tests/images/test_mask.py",
        "tests/sections/test_section.py",
    ],
    "_sections/references": [
        "tests/sections/test_by_rows.py",
        "tests/tl/test_reference.py",
        "tests/sections/test_totals.py",
        "tests/tl/test_stream.py",
    ],
    "_sections/totals": ["tests/sections/test_known.py", "tests/sections/test_totals.py", "tests/tl/test_subsets.py"],
    "_sections/spread": ["tests/sections/test_known.py", "tests/models/test_parts.py", "tests/tl/test_subsets.py"],
    "_sections/scale": ["tests/sections/test_scale.py", "tests/sections/test_section.py"],
    "_sections/by_rows": ["tests/sections/test_by_rows.py", "tests/tl/test_reference.py"],
    "_sections/groups": ["tests/sections/test_known.py", "tests/sections/test_groups.py"],
    "_sections/picture": ["tests/sections/test_picture.py", "tests/sections/test_section.py"],
    "_sections/wsidata": ["tests/sections/test_picture.py", "tests/io/test_wsidata.py"],
    "_sections/anndata": [
        "tests/sections/test_opened.py",
        "tests/sections/test_section.py",
        "tests/sections/test_groups.py",
    ],
    "_sections/section": [
        "tests/sections/test_opened.py",
        "tests/sections/test_section.py",
        "tests/sections/test_totals.py",
    ],
    "_sections/spatialdata": [
        "tests/sections/test_regions.py",
        "tests/io/test_spatialdata.py",
        "tests/sections/test_section.py",
        "tests/io/test_cells.py",
    ],
    "_sections/places": ["tests/sections/test_known.py", "tests/sections/test_places.py"],
    "_sections/labelled": ["tests/sections/test_picture.py", "tests/io/test_cells.py", "tests/io/test_spatialdata.py"],
    "_sections/open": [
        "tests/sections/test_opened.py",
        "tests/sections/test_bounds.py",
        "tests/sections/test_section.py",
        "tests/test_bad_input.py",
    ],
    "_sections/stored": ["tests/sections/test_opened.py", "tests/tl/test_stream.py"],
    "_sections": [
        "tests/sections",
        "tests/pp/test_niches.py",
        "tests/io/test_spatialdata.py",
        "tests/io/test_wsidata.py",
    ],
}
"""Tests of each part of the package; the longest beginning of a module's path counts. `NUMBERS` comes after them."""

OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.In: ast.NotIn,
    ast.Is: ast.IsNot,
    ast.Add: ast.Sub,
    ast.Mult: ast.Div,
    ast.And: ast.Or,
}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}

SECONDS = 600
"""A run of tests that takes longer than this counts as failed."""


class Mutant(NamedTuple):
    """A changed file (its path and its new text), and the tests that should notice."""

    name: str
    path: str
    text: str
    tests: list[str]


def named(word: str) -> list[Mutant]:
    """The mutants of `NAMED` with `word` in their name."""
    mutants = []
    for name, (path, old, new, tests) in NAMED.items():
        text = (ROOT / path).read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: {path} has the text to be replaced {text.count(old)} times, not once:\n{old}")
        if word in name:
            mutants.append(Mutant(name, path, text.replace(old, new), tests))
    return mutants


def drawn(n: int, seed: int) -> list[Mutant]:
    """`n` changes of one place each."""
    package = ROOT / "src" / "stpredict"
    places = [
        (path, place)
        for area in DRAWN
        for path in sorted((package / area).rglob("*.py"))
        for place in changes(ast.parse(path.read_text()))
    ]
    mutants = []
    for path, (node, new) in random.Random(seed).sample(places, min(n, len(places))):
        source = path.read_bytes()
        old = ast.get_source_segment(source.decode(), node) or ""
        lines = source.splitlines(keepends=True)
        start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
        text = (source[:start] + new.encode() + source[start + len(old.encode()) :]).decode()
        place = path.relative_to(package).as_posix()
        tests = [*TESTS[max((area for area in TESTS if place.startswith(area)), key=len)], NUMBERS]
        where = path.relative_to(ROOT).as_posix()
        mutants.append(Mutant(f"{where}:{node.lineno}  {' '.join(old.split())}  ->  {new}", where, text, tests))
    return mutants


def changes(tree: ast.AST) -> list[tuple[ast.expr | ast.stmt, str]]:
    """Places of a module and what each could become; type hints, texts and messages are left out."""
    found: list[tuple[ast.expr | ast.stmt, str]] = []

    def visit(node: ast.AST) -> None:
        if new := changed(node):
            found.append((node, new))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            found.append((node.test, f"not {ast.unparse(node.test)}"))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not told(child):
                    visit(child)

    visit(tree)
    return found


def told(node: ast.AST) -> bool:
    """Whether the code below serves readers of messages or of types only."""
    match node:
        case ast.Assign(targets=[ast.Name(id="msg")]) | ast.JoinedStr() | ast.Raise():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
    return False


def changed(node: ast.AST) -> str | None:
    """Another code in place of that of `node`, or None."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[op]) if type(op) in OPPOSITE:
            new.ops = [OPPOSITE[type(op)]()]
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in OPPOSITE and not texts(new):
            new.op = OPPOSITE[type(op)]()
        case ast.UnaryOp(op=ast.Not()):
            return f"({ast.unparse(new.operand)})"
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            new.value = value + 1
        case ast.IfExp():
            new.body, new.orelse = new.orelse, new.body
        case ast.Expr(value=ast.Call()):
            return "pass"
        case _:
            return None
    return ast.unparse(new)


def texts(node: ast.AST) -> bool:
    """Whether strings are joined there."""
    return any(isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", None), str) for n in ast.walk(node))


def passes(copied: Path, tests: list[str]) -> bool:
    """Whether the tests pass in the copy."""
    files = [str(path.relative_to(copied)) for test in tests for path in sorted(copied.glob(test))] or tests
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *files]
    how = os.environ | {"PYTHONPATH": str(copied / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copied, env=how, timeout=SECONDS, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1, 2):
        sys.exit(f"{' '.join(command)} could not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def main() -> None:
    """Try each mutant; exit with 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="named mutants with this in their name")
    parser.add_argument("--random", type=int, metavar="N", help="draw N changes instead of the named ones")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no mutant after this time")
    asked = parser.parse_args()
    mutants = named(asked.only) if asked.random is None else drawn(asked.random, asked.seed)
    end, tried, survivors, sound = time.monotonic() + 60 * asked.minutes, 0, [], set()
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "tree"
        shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".*", "__pycache__", "_build", "dist"))
        for mutant in mutants:
            if time.monotonic() > end:
                break
            if str(mutant.tests) not in sound and not passes(copied, mutant.tests):
                sys.exit(f"These tests fail without any mutant: {' '.join(mutant.tests)}")
            sound.add(str(mutant.tests))
            original = (copied / mutant.path).read_text()
            (copied / mutant.path).write_text(mutant.text)
            survived = passes(copied, mutant.tests)
            (copied / mutant.path).write_text(original)
            tried += 1
            survivors += [mutant.name] if survived else []
            print("SURVIVED" if survived else "noticed ", mutant.name, flush=True)
    print(f"{len(survivors)} of {tried} survived; {len(mutants) - tried} were not tried")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
