"""How encoding gets through a slide: what is decoded, what reaches the network, and what fits."""

from __future__ import annotations

import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

import stpredict as st
from stpredict._images import SlideImage, open_image, readers
from stpredict._sections.open import open_sections
from stpredict._sections.scale import ScaleHints
from stpredict._sections.section import Section
from stpredict.pp._encoders import network_encoder, windows
from stpredict.pp._encoders.glass import is_glass
from stpredict.pp._encoders.windows import block_groups

SIDE = 4096


class Colour(torch.nn.Module):
    """Mean colour of a tile."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, tiles):
        self.seen.append(len(tiles))
        return tiles.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Pyramid of JPEG-compressed chunks of 256 px at 0.5 µm; its right third is glass."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    rng = np.random.default_rng(0)
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[...] = rng.integers(60, 200, (SIDE // 32, SIDE // 32, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    pixels[:, SIDE * 2 // 3 :] = (243, 241, 244)
    options = {"photometric": "rgb", "compression": "jpeg", "tile": (256, 256), "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        tif.write(pixels, subifds=2, **options)
        for step in (2, 4):
            tif.write(pixels[::step, ::step], subfiletype=1, **options)
    return path


def section(path, pitch=200.0):
    x, y = np.meshgrid(np.arange(150, SIDE - 150, pitch), np.arange(150, SIDE - 150, pitch))
    centres = np.column_stack([x.ravel(), y.ravel()])
    adata = ad.AnnData(np.ones((len(centres), 1), np.float32), obsm={"spatial": centres})
    library = {"scalefactors": {"microns_per_pixel": 0.5}, "metadata": {"source_image_path": str(path)}}
    adata.uns["spatial"] = {"slide": library}
    st.pp.tiles(adata)
    return adata


def encoder(network, **options):
    cpu = torch.device("cpu")
    given = {"size": 224, "mean": (0.5,) * 3, "std": (0.25,) * 3, "devices": [cpu], "precision": "float32"}
    return network_encoder.NetworkEncoder(network, "test", **(given | options))


def test_overlapping_tiles_decode_every_chunk_once(slide, monkeypatch):
    from stpredict._images import readers
    from stpredict._images.tiff import TiffLevel

    monkeypatch.setattr(readers, "blocks", readers.BlockCache())
    decoded, chunk = [], TiffLevel._chunk
    monkeypatch.setattr(
        TiffLevel, "_chunk", lambda self, file, i: decoded.append((self._level, i)) or chunk(self, file, i)
    )
    st.pp.encode(section(slide, pitch=60.0), Colour(), niche=False, show_progress=False)
    assert len(decoded) == len(set(decoded)) == (SIDE // 256) ** 2


class Grey:
    """A level of a large slide, of one colour, in chunks of 512 px."""

    chunks = (512, 512)

    def __init__(self, side):
        self.shape = (side, side, 3)

    def __getitem__(self, window):
        y, x = window
        return np.full((y.stop - y.start, x.stop - x.start, 3), 128, np.uint8)


@pytest.mark.parametrize(("finest", "pitch"), [(1, 250.0), (2, 500.0)])
def test_tiles_and_niches_of_a_large_slide_decode_hardly_a_block_twice(monkeypatch, finest, pitch):
    """16,384 px at 0.5 µm are ten times what the cache holds; `finest` is the µm per pixel, relative to that."""
    side = 16_384 * finest
    levels = [Grey(side // downsample) for downsample in (1, 2, 4, 8)]
    monkeypatch.setattr(readers, "blocks", cache := readers.BlockCache())
    x, y = np.meshgrid(np.arange(pitch / 2, side, pitch), np.arange(pitch / 2, side, pitch))
    centres = np.column_stack([x.ravel(), y.ravel()])[np.random.default_rng(0).permutation(x.size)]
    view = Section(
        name="large",
        adata=ad.AnnData(obs=pd.DataFrame(index=np.arange(len(centres)).astype(str))),
        rows=np.arange(len(centres)),
        centres=centres,
        open_image=lambda: SlideImage(levels),
        hints=ScaleHints(argument=0.5 / finest),
    )
    tool, kinds = encoder(Colour()), [windows.Windows(112.0, centres), windows.Windows(560.0, centres)]
    seen, made = np.zeros((2, len(view)), dtype=int), set()
    monkeypatch.setattr(cache, "get", lambda key, make, get=cache.get: made.add(key) or get(key, make))
    for _, kind, cut in tool._cuts(view, tool.parts(view, kinds), kinds):
        seen[kind, cut.rows] += 1
        cut.crops(view.image)
    assert (seen == 1).all()
    assert len(made) == 32**2 + 8**2
    assert cache.made <= 1.05 * len(made)


def test_threads_that_want_one_block_decode_it_once(slide, monkeypatch):
    from stpredict._images import readers

    monkeypatch.setattr(readers, "blocks", readers.BlockCache())
    image = open_image(slide)
    cut = list(windows.ahead(lambda _: image.read(10, 20, 300, 310), range(32), threads=8, depth=32))
    assert all(np.array_equal(window, cut[0]) for window in cut)
    assert readers.blocks.made == 1


def test_cache_forgets_what_was_used_longest_ago():
    from stpredict._images.blocks import BlockCache

    cache, made = BlockCache(limit=3 * 100), []

    def block(i):
        return cache.get((i,), lambda: made.append(i) or np.zeros(100, np.uint8))

    for i in (0, 1, 2, 0, 3, 0, 1):
        block(i)
    assert made == [0, 1, 2, 3, 1]
    with pytest.raises(OSError, match="gone"):
        cache.get((9,), lambda: (_ for _ in ()).throw(OSError("gone")))
    assert cache.get((9,), lambda: np.ones(1)).sum() == 1


def test_tiles_without_tissue_never_reach_the_network(slide):
    adata, network = section(slide), Colour()
    st.pp.encode(adata, network, niche=False, key_added="X_c", show_progress=False)
    glass = adata.obsm["spatial"][:, 0] - 112 >= SIDE * 2 / 3
    tried = 4  # tiles that show whether the network gives the same twice
    assert sum(network.seen) == (~glass).sum() + tried + 1  # one white tile tells what glass looks like
    np.testing.assert_allclose(
        adata.obsm["X_c"][glass],
        np.tile((1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], (glass.sum(), 1)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("stain", [None, "one nucleus", "pale"])
def test_glass_is_told_from_little_or_pale_tissue(stain):
    rng = np.random.default_rng(0)
    tile = np.clip(rng.normal(240, 4, (224, 224, 3)), 0, 255).astype(np.uint8)
    if stain == "one nucleus":
        tile[100:116, 60:76] = (120, 90, 170)
    elif stain == "pale":
        tile = np.clip(tile - [5, 30, 10], 0, 255).astype(np.uint8)
    assert is_glass(tile) == (stain is None)


@pytest.mark.parametrize(("grey", "glass"), [(255, True), (215, True), (150, False), (30, False)])
def test_grey_is_glass_only_where_it_is_bright(grey, glass):
    assert is_glass(np.full((224, 224, 3), grey, np.uint8)) == glass


def test_batches_shrink_until_they_fit(slide):
    class Small(Colour):
        def forward(self, tiles):
            if len(tiles) > 10:
                msg = "out of memory: tried to allocate 9 GiB"
                raise torch.OutOfMemoryError(msg)
            return super().forward(tiles)

    adata, network = section(slide), Small()
    st.pp.encode(adata, network, batch_size=64, niche=False, key_added="X_small", show_progress=False)
    st.pp.encode(adata, Colour(), niche=False, key_added="X_plain", show_progress=False)
    np.testing.assert_allclose(adata.obsm["X_small"], adata.obsm["X_plain"], rtol=1e-6)
    assert max(network.seen) == 8


def test_a_tile_that_does_not_fit_says_what_to_do(slide):
    class TooLarge(Colour):
        def forward(self, tiles):
            msg = "CUDA out of memory. Tried to allocate 99 GiB"
            raise torch.OutOfMemoryError(msg)

    adata = section(slide)
    with pytest.raises(
        ValueError, match=r"Not even one tile fits into the memory of cpu.*use device='cpu'|Use device='cpu'"
    ):
        st.pp.encode(adata, TooLarge(), show_progress=False)
    assert "X_TooLarge" not in adata.obsm


def test_several_devices_share_the_tiles_of_one_slide(slide):
    cpu = torch.device("cpu")
    adata = section(slide)
    view = open_sections(adata)[0]
    windows = st.pp._encode._windows(view, 112.0, True, [])

    def run(devices):
        tool = encoder(Colour(), devices=devices, batch_size=16)
        parts = tool.parts(view, windows)
        out = np.zeros((2, len(view), 3), np.float32)
        for rows, features in zip(parts, tool.encode(view, parts, windows, lambda n: None), strict=True):
            out[:, rows] = features
        return out, tool

    one, _ = run([cpu])
    two, tool = run([cpu, torch.device("cpu", 0)])
    np.testing.assert_array_equal(one, two)
    assert len({id(runner) for runner in tool._runners}) == 2
    assert all(runner.seen for runner in tool._runners)


def test_progress_counts_every_spot_once(slide):
    adata, told = section(slide), []
    view = open_sections(adata)[0]
    tool = encoder(Colour())
    windows = st.pp._encode._windows(view, 112.0, True, [])
    parts = tool.parts(view, windows)
    assert len(list(tool.encode(view, parts, windows, told.append))) == len(parts)
    assert sum(told) == len(view)


def test_neighbouring_blocks_follow_each_other():
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    centres = np.column_stack([x.ravel(), y.ravel()]) * 10.0 - 300
    groups = block_groups(centres, 40)
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(64**2))
    blocks = [np.unique(np.floor(centres[group] / 40), axis=0) for group in groups]
    assert all(len(block) == 1 for block in blocks)
    steps = np.abs(np.diff(np.concatenate(blocks), axis=0)).sum(axis=1)
    assert np.median(steps) == 1
    assert steps.mean() < 2
    assert block_groups(np.empty((0, 2)), 40) == []


def test_ahead_keeps_order_bounds_what_waits_and_hands_on_errors():
    started = []

    def work(i):
        started.append(i)
        time.sleep(0.002 * (i % 3))
        if i == 20:
            msg = "twenty"
            raise ValueError(msg)
        return i

    results = windows.ahead(work, range(100), threads=4, depth=6)
    first = [next(results) for _ in range(5)]
    time.sleep(0.05)
    assert first == list(range(5))
    assert max(started) <= 4 + 7
    with pytest.raises(ValueError, match="twenty"):
        list(results)
    assert max(started) < 40


def test_a_slide_that_vanishes_while_it_is_read(slide, tmp_path):
    copy = tmp_path / "slide.tif"
    copy.write_bytes(slide.read_bytes())
    adata = section(copy)

    class Vanishing(Colour):
        def forward(self, tiles):
            copy.unlink(missing_ok=True)
            return super().forward(tiles)

    with st.settings.override(cache_dir=tmp_path / "cache"), pytest.raises(ValueError, match=r"slide\.tif"):
        st.pp.encode(adata, Vanishing(), batch_size=4, show_progress=False)
    assert not [key for key in adata.obsm if key != "spatial"]


def test_features_in_bfloat16_are_those_in_float32_rounded(slide):
    timm = pytest.importorskip("timm")
    adata = section(slide, pitch=600.0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    for precision in ("float32", "bfloat16"):
        st.pp.encode(adata, network, niche=False, key_added=f"X_{precision}", precision=precision, show_progress=False)
        assert adata.uns[f"X_{precision}"]["precision"] == precision
    fine, coarse = adata.obsm["X_float32"], adata.obsm["X_bfloat16"]
    assert 0 < np.linalg.norm(fine - coarse) < 0.02 * np.linalg.norm(fine)


def test_only_cpus_that_compute_in_bfloat16_encode_in_it(monkeypatch):
    from stpredict._core import device

    cpu = torch.device("cpu")
    for has, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda has=has: has)
        assert device.resolve_precision(None, cpu, inference=True) == expected
        assert device.resolve_precision(None, cpu) == "float32"  # training


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((12, 0), "bfloat16")]
)
def test_only_cards_that_compute_in_bfloat16_train_and_encode_in_it(monkeypatch, capability, expected):
    from stpredict._core.device import resolve_precision

    asked = []
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (asked.append(device), capability)[1])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # emulated, on older cards
    card = torch.device("cuda", 1)
    assert resolve_precision("auto", card) == resolve_precision("auto", card, inference=True) == expected
    assert asked == [card, card]  # that card, not the first
    assert resolve_precision("bfloat16", card) == "bfloat16"  # asked for by name
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert resolve_precision("auto", card) == "bfloat16"


@pytest.mark.slow
def test_a_compiled_network_is_the_same_encoder(slide):
    adata, network = section(slide, pitch=600.0), Colour()
    st.pp.encode(adata, network, niche=False, key_added="X_plain", show_progress=False)
    st.pp.encode(adata, torch.compile(network), niche=False, key_added="X_compiled", show_progress=False)
    assert adata.uns["X_plain"]["encoder_hash"] == adata.uns["X_compiled"]["encoder_hash"]
    np.testing.assert_allclose(adata.obsm["X_plain"], adata.obsm["X_compiled"], rtol=1e-4)


def test_names_of_features_survive_an_encoding_that_found_all_parts_on_disk(slide, tmp_path, monkeypatch):
    adata = section(slide)
    monkeypatch.setattr("stpredict.pp._encoders.morphology_encoder.BLOCK_PX", 256)
    with st.settings.override(cache_dir=tmp_path):
        monkeypatch.setattr("stpredict.pp._encode.shutil.rmtree", lambda *args, **kwargs: None)
        st.pp.encode(adata, show_progress=False)
        first = adata.obsm["X_morphology"].copy()
        monkeypatch.setattr(
            "stpredict.pp._encoders.morphology_encoder.MorphologyEncoder._open",
            lambda *args: pytest.fail("encoded once more"),
        )
        st.pp.encode(adata, show_progress=False)
    np.testing.assert_array_equal(adata.obsm["X_morphology"], first)
    assert len(adata.uns["X_morphology"]["feature_names"]) == first.shape[1]


def test_parts_of_another_order_are_not_taken_for_these(slide, tmp_path, monkeypatch):
    from stpredict.pp._encoders import windows

    adata = section(slide)
    monkeypatch.setattr(network_encoder, "SPOTS_PER_PART", 32)
    monkeypatch.setattr("stpredict.pp._encode.shutil.rmtree", lambda *args, **kwargs: None)
    with st.settings.override(cache_dir=tmp_path):
        st.pp.encode(adata, Colour(), niche=False, show_progress=False)
        first = adata.obsm["X_Colour"].copy()
        monkeypatch.setattr(network_encoder, "columns", lambda centres: windows.columns(centres)[::-1])
        st.pp.encode(adata, Colour(), niche=False, show_progress=False)
    np.testing.assert_allclose(adata.obsm["X_Colour"], first, rtol=1e-6)


def test_a_full_cache_disk_does_not_stop_encoding(slide, tmp_path, monkeypatch):
    adata = section(slide)
    monkeypatch.setattr(network_encoder, "SPOTS_PER_PART", 32)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stpredict.pp._encode.np.save", full)
    with st.settings.override(cache_dir=tmp_path):
        st.pp.encode(adata, Colour(), niche=False, show_progress=False)
    assert "X_Colour" in adata.obsm
    assert not list(tmp_path.rglob("*.tmp"))


def test_one_of_several_processes_takes_one_gpu(monkeypatch):
    from stpredict._core import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [d.index for d in device.resolve_devices("cuda")] == [0, 1, 2, 3]
    assert [d.index for d in device.resolve_devices("cuda:2")] == [2]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [d.index for d in device.resolve_devices("auto")] == [3]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # shown its own only
    assert [d.index for d in device.resolve_devices("auto")] == [0]


def test_no_tile_is_lost_where_batches_shrink_while_one_is_filled():
    sizes = iter([40, 40, 8, 8, 3])
    pieces = [(network_encoder._Piece(0, 0, np.arange(i, i + 30)), torch.arange(i, i + 30)) for i in (0, 30, 60)]
    limits = []

    def size():
        limits.append(next(sizes, 3))
        return limits[-1]

    rows = []
    for found, batch in network_encoder._batches(iter(pieces), size):
        assert len(batch)
        np.testing.assert_array_equal(np.concatenate([piece.rows for piece in found]), batch)
        rows += batch.tolist()
    assert rows == list(range(90))
