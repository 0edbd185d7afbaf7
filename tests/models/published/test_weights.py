"""Weights of published models: from a folder, from the hub's cache, and from a hub that refuses or is silent."""

from __future__ import annotations

import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants as hub
import numpy as np
import pytest
import torch

import stpredict as st
from stpredict.models.published.weights import read_tensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client, and a hub that cannot be reached."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub_cache"


def fill(cache, folder, commit=COMMIT):
    """Lay files out as the hub's client keeps them."""
    repository = cache / "models--RendeiroLab--LazySlide-models"
    shutil.copytree(folder, repository / "snapshots" / commit / "Path2Space", dirs_exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_what_the_hub_client_keeps_is_used_without_network(hub_cache, path2space_folder, path2space):
    fill(hub_cache, path2space_folder)
    model = st.models.pretrained("path2space")
    assert model.provenance["revision"] == COMMIT
    assert model.provenance["source"] == "huggingface.co/RendeiroLab/LazySlide-models"
    assert model.provenance["sha256"] == path2space.provenance["sha256"]
    assert st.models.pretrained("path2space", revision=COMMIT).provenance["revision"] == COMMIT


def test_without_network_one_sentence_within_seconds(hub_cache):
    started = time.monotonic()
    with pytest.raises(OSError, match=r"cannot be had from huggingface.co/RendeiroLab") as caught:
        st.models.pretrained("path2space")
    assert time.monotonic() - started < 10
    assert "path= the folder" in str(caught.value)
    assert "Path2Space_exported.pt2 and Path2Space_genes.txt" in str(caught.value)


def test_another_revision_than_is_kept_needs_the_network(hub_cache, path2space_folder):
    fill(hub_cache, path2space_folder)
    with pytest.raises(OSError, match=f"@{'f' * 40}"):
        st.models.pretrained("path2space", revision="f" * 40)


@pytest.fixture
def hub_that_answers(hub_cache, monkeypatch):
    """A hub that answers every question for a file with one status and error code."""
    servers = []

    def answer(status, code):
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                inside = "resolve" in self.path
                self.send_response(status if inside else 200)
                if inside:
                    self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(
            hub, "HUGGINGFACE_CO_URL_TEMPLATE", hub.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        )

    yield answer
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_licence_is_told_before_anything_is_downloaded(hub_that_answers):
    hub_that_answers(404, "EntryNotFound")
    told = r"Path2Space is downloaded now \(6.7 GB\). Licence of its weights: Apache-2.0\."
    with pytest.warns(UserWarning, match=told), pytest.raises(OSError, match="cannot be had"):
        st.models.pretrained("path2space")
    with (
        pytest.warns(UserWarning, match=r"CC-BY-NC-SA-4.0, not for commercial use"),
        pytest.raises(OSError, match=r"from huggingface.co/ratschlab/DeepSpotM"),
    ):
        st.models.pretrained("deepspotm")


@pytest.mark.filterwarnings("ignore:Path2Space is downloaded now")
def test_a_gate_says_where_to_ask(hub_that_answers):
    hub_that_answers(403, "GatedRepo")
    with pytest.raises(PermissionError, match=r"gated: ask for access at huggingface.co/RendeiroLab/LazySlide-models"):
        st.models.pretrained("path2space")


@pytest.mark.filterwarnings("ignore:Path2Space is downloaded now")
@pytest.mark.parametrize(("status", "code"), [(404, "RevisionNotFound"), (404, "EntryNotFound"), (404, "RepoNotFound")])
def test_what_the_hub_does_not_have(hub_that_answers, status, code):
    hub_that_answers(status, code)
    with pytest.raises(OSError, match=r"Path2Space cannot be had from huggingface.co"):
        st.models.pretrained("path2space", revision="no-such")


def test_a_folder_without_the_files_names_them(tmp_path, path2space_folder):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        st.models.pretrained("path2space", path=tmp_path / "nowhere")
    (path2space_folder / "Path2Space_genes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no Path2Space_genes.txt, the genes of Path2Space"):
        st.models.pretrained("path2space", path=path2space_folder)


def test_saved_it_is_names_and_digests(tmp_path, path2space, section, ctranspath):
    ctranspath(section)
    path2space.save(tmp_path / "model")
    assert sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) < 5000
    again = st.models.load(tmp_path / "model")
    st.tl.predict_expression(section, path2space)
    st.tl.predict_expression(section, again, key_added="again")
    np.testing.assert_array_equal(section.layers["again"], section.layers["predicted"])
    assert section.uns["again"]["model_id"] == section.uns["predicted"]["model_id"]


def test_other_weights_than_were_saved_are_refused(
    tmp_path, path2space, path2space_folder, path2space_tensors, write_exported
):
    path2space.save(tmp_path / "model")
    changed = path2space_tensors | {"members.0.layer1.0.bias": path2space_tensors["members.0.layer1.0.bias"] + 1}
    write_exported(path2space_folder / "Path2Space_exported.pt2", changed)
    with pytest.raises(
        ValueError, match=r"The network of Path2Space in .* are not those that this model was made with"
    ):
        st.models.load(tmp_path / "model")
    shutil.rmtree(path2space_folder)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        st.models.load(tmp_path / "model")


class Planted:
    """Would run code where it is unpickled."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path, cache, capsys):
    torch.save({"weight": torch.ones(2), "more": Planted()}, tmp_path / "planted.pth")
    with pytest.raises(ValueError, match="is no file of named tensors"):
        read_tensors(tmp_path / "planted.pth")
    assert "unpickled" not in capsys.readouterr().out
    assert not list(cache.rglob("*.safetensors"))


def test_a_checkpoint_is_converted_once(tmp_path, cache, monkeypatch):
    torch.save({"state_dict": {"weight": torch.arange(3.0)}}, tmp_path / "own.pth")
    first = read_tensors(tmp_path / "own.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read again"))
    second = read_tensors(tmp_path / "own.pth")
    assert first["weight"].tolist() == second["weight"].tolist() == [0, 1, 2]
    (kept,) = (cache / "published").iterdir()
    assert kept.suffix == ".safetensors"
