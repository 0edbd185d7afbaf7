"""Models are passed on by a hub: the library's own client, against a small hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._base.files import identity

GENES = ["GENE1", "GENE4", "GENE9"]


class Hub(ThreadingHTTPServer):
    """What the client needs of a hub: repositories whose revisions are files, and commits that name all of them."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, str]] = {}
        """Commit of every revision, by repository."""
        self.files: dict[str, dict[str, bytes]] = {}
        """Content of every file, by commit."""
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.refusal: tuple[int, str] | None = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def sent(self):
        return [request for request in self.requests if not request.startswith(("GET", "HEAD"))]

    def commit(self, repository, files, revision="main"):
        code = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files[code] = files
        self.repositories.setdefault(repository, {})[revision] = code
        return code


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].strip("/")
        if not path:
            return self.answer({})
        if hub.refusal:
            return self.answer({"error": "no"}, hub.refusal[0], X_Error_Code=hub.refusal[1])
        found = re.fullmatch(r"(?:api/models/)?(\w+/[\w.-]+)/(revision|tree|resolve)/([\w.]+)/?(.*)", path)
        if not found or found[1] not in hub.repositories:
            return self.answer({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
        code = hub.repositories[found[1]].get(found[3], found[3])
        if code not in hub.files:
            return self.answer({"error": "no such revision"}, 404, X_Error_Code="RevisionNotFound")
        files = hub.files[code]
        if found[2] == "revision":
            return self.answer({"id": found[1], "sha": code, "siblings": [{"rfilename": name} for name in files]})
        digests = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
        if found[2] == "tree":
            sizes = {name: len(content) for name, content in files.items()}
            return self.answer([{"type": "file", "path": n, "size": sizes[n], "oid": digests[n]} for n in files])
        return self.answer(files[found[4]], X_Repo_Commit=code, ETag=f'"{digests[found[4]]}"')

    def do_POST(self):
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        body = (
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.headers["Content-Length"]
            else chunks(self)
        )
        if hub.refusal:
            return self.answer({"error": "no"}, hub.refusal[0])
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                return self.answer({"url": f"{hub.url}/{name}"}, 409)
            hub.repositories[name], hub.private[name] = (
                {},
                asked.get("visibility") == "private" or asked.get("private", False),
            )
            return self.answer({"url": f"{hub.url}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repository = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return self.answer({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        code = hub.commit(repository, files)
        return self.answer({"commitUrl": f"{hub.url}/{repository}/commit/{code}", "commitOid": code})


def chunks(handler):
    whole = b""
    while size := int(handler.rfile.readline(), 16):
        whole += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return whole


@pytest.fixture
def away(tmp_path, monkeypatch):
    """Neither a hub nor a cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_none")

    def at(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    at("http://127.0.0.1:9")
    return at


@pytest.fixture
def hub(away):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    away(server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(paired):
    return st.tl.train(paired(3), genes=GENES, method="ridge")


def push(model, repository="lab/breast", **how):
    return model.push_to_hub(repository, **({"licence": "cc-by-4.0"} | how))


# ---------------------------------------------------------------------- there and back


@pytest.mark.parametrize("method", ["ridge", "knn"])
def test_a_model_comes_back_as_it_was_sent(paired, hub, method):
    new = open_sections(paired(4)[3])[0]
    model = st.tl.train(paired(3), method=method, genes=GENES)
    where = push(model, tissue="mouse brain")
    code = hub.repositories["lab/breast"]["main"]
    assert where == f"hf-hub:lab/breast@{code}"
    assert sorted(hub.files[code]) == ["README.md", "model.json", "model.safetensors"]
    assert hub.private["lab/breast"] is True
    for name in (where, "hf-hub:lab/breast"):
        again = st.models.load(name)
        assert (again.method, identity(again)) == (method, identity(model))
        np.testing.assert_array_equal(again.predict(new).mean, model.predict(new).mean)
    assert not [request for request in hub.requests if "resolve" in request and "README" in request]


def test_a_revision_stays_what_it_was(paired, hub, model):
    first = push(model)
    other = st.tl.train(paired(3), method="mean", genes=GENES)
    assert push(other, private=False) != first
    assert hub.private["lab/breast"] is True  # an old repository stays as it is
    assert st.models.load("hf-hub:lab/breast").method == "mean"
    assert st.models.load(first).method == "ridge"
    hub.repositories["lab/breast"]["v1"] = first.partition("@")[2]
    assert identity(st.models.load("hf-hub:lab/breast@v1")) == identity(model)


def test_what_was_loaded_once_needs_no_hub(hub, away, model):
    where = push(model)
    st.models.load(where)
    st.models.load("hf-hub:lab/breast")
    away("http://127.0.0.1:9")
    assert identity(st.models.load(where)) == identity(model)
    assert identity(st.models.load("hf-hub:lab/breast")) == identity(model)


def test_functions_take_the_name_for_a_model(paired, hub, model):
    new = paired(4)[3]
    st.tl.predict_expression(new, push(model))
    expected = model.predict(open_sections(new)[0]).mean
    np.testing.assert_allclose(new[:, GENES].layers["predicted"], expected)
    assert st.tl._given.given_model(Path("hf-hub:lab/breast")).genes == GENES  # as the command line gives it


# ---------------------------------------------------------------------- what cannot be loaded


def test_what_is_not_there_is_one_sentence(hub, model):
    push(model)
    hub.commit("lab/other", {"pytorch_model.bin": b"\x80\x04."})
    for name, told in (
        ("hf-hub:lab/nothing", "check the name; if the repository is private, log in with `hf auth login`"),
        ("hf-hub:lab/breast@v9", "the repository has no revision 'v9'"),
        ("hf-hub:lab/other", "no model of stpredict at hf-hub:lab/other: model.json and model.safetensors missing"),
    ):
        with pytest.raises(FileNotFoundError, match=told) as caught:
            st.models.load(name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not [request for request in hub.requests if "pytorch_model" in request]
    for refusal, told in (((403, "GatedRepo"), "ask for access on its page"), ((500, ""), "an error; try again later")):
        hub.refusal = refusal
        with pytest.raises(FileNotFoundError, match=told):
            st.models.load("hf-hub:lab/third")


def test_a_hub_out_of_reach_is_said_within_a_second(away):
    import huggingface_hub  # noqa: F401

    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=r"no model to be had at hf-hub:lab/breast: .*127\.0\.0\.1:9 cannot be"):
        st.models.load("hf-hub:lab/breast")
    assert time.perf_counter() - start < 1


def test_a_download_that_was_cut_short_is_no_model(hub, away, model, tmp_path):
    where = push(model)
    st.models.load(where)
    (snapshot,) = (tmp_path / "cache" / "models--lab--breast" / "snapshots").iterdir()
    weights = snapshot / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    away("http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(
        FileNotFoundError, match=r"cannot be reached.*, and there is no whole copy|safetensors missing here"
    ):
        st.models.load(where)
    assert time.perf_counter() - start < 2  # (the client itself would try again and again)
    weights.write_bytes(whole[:-100])
    with pytest.raises(
        ValueError, match=rf"{re.escape(where)}: .* is damaged .*delete .*snapshots.* and load it again"
    ):
        st.models.load(where)


def test_a_model_that_was_changed_on_the_hub_is_refused(hub, model):
    code = push(model).partition("@")[2]
    changed = hub.files[code]["model.json"].replace(b"GENE4", b"GENE5")
    hub.commit("lab/breast", hub.files[code] | {"model.json": changed})
    with pytest.raises(ValueError, match="its two files do not belong together"):
        st.models.load("hf-hub:lab/breast")
    assert st.models.load(f"hf-hub:lab/breast@{code}").genes == GENES


def test_a_snapshot_from_elsewhere_is_read_offline(model, tmp_path, away, monkeypatch):
    """A cache that was copied to a machine without a network, in the layout that the library documents."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--lab--breast"
    model.save(repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert identity(st.models.load("hf-hub:lab/breast")) == identity(model)
    assert identity(st.models.load(f"hf-hub:lab/breast@{'a' * 40}")) == identity(model)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE forbids"):
        st.models.load("hf-hub:lab/absent")
    with pytest.raises(OSError, match="could not be sent to lab/breast: HF_HUB_OFFLINE forbids"):
        push(model)


# ---------------------------------------------------------------------- what is not sent

BAD = [
    "breast",
    "lab/breast/v1",
    "lab/breast@v1",
    "lab/breast cancer",
    "lab/../breast",
    "",
    "hf-hub:lab/breast",
    "lab/",
]


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_before_anything_is_sent(hub, model, name):
    with pytest.raises(ValueError, match=r"no name of a repository such as 'lab/breast-visium'"):
        push(model, name)
    with pytest.raises(ValueError, match="no name of a repository"):
        st.models.load(f"hf-hub:{name.partition('@')[0] if '@' not in name else 'breast'}")
    assert not hub.requests


def test_an_untrained_model_is_refused(hub):
    with pytest.raises(ValueError, match="was not trained, so there is nothing to pass on"):
        push(st.models.METHODS["ridge"]())
    assert not hub.requests


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"licence": ""}, "licence='' is no name of a licence"),
        ({"licence": "as you like"}, "no name of a licence on the hub, such as 'cc-by-4.0'"),
        ({"tissue": "breast\nlicense: mit"}, "should be one line"),
        ({"tissue": " "}, "should be one line"),
    ],
)
def test_impossible_cards_are_refused_before_anything_is_sent(hub, model, how, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        push(model, **how)
    assert not hub.requests


def encoded_by(sections, name):
    for adata in sections:
        for key in ("X_fake", "X_fake_niche"):
            adata.uns[key]["encoder"] = name
    return sections


@pytest.mark.parametrize("name", ["uni2-h", "UNI", "h0-mini"])
def test_an_encoder_whose_licence_forbids_derivatives_needs_a_word(paired, hub, name):
    model = st.tl.train(encoded_by(paired(3), name), genes=GENES, method="ridge")
    for one in (model, st.tl.adapt(encoded_by(paired(4)[3:], name)[0], model)):
        with pytest.raises(ValueError, match=rf"{name}.*CC-BY-NC-ND-4\.0 forbids derivatives.*has_permission=True"):
            push(one)
    assert not hub.requests
    code = push(model, has_permission=True).partition("@")[2]
    card = hub.files[code]["README.md"].decode()
    assert f"`{name}`, which are not in this repository: CC-BY-NC-ND-4.0" in card
    assert "permits to pass the model on" in card


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "log in with `hf auth login`"), (403, "you may not write to 'lab'"), (500, "could not be sent")],
)
def test_a_hub_that_refuses_is_one_sentence(hub, model, status, told, monkeypatch):
    hub.refusal = (status, "")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # (the client's own pauses between tries)
    with pytest.raises(OSError, match=re.escape(told)) as caught:
        push(model)
    assert "\n" not in str(caught.value)


def test_nothing_is_sent_where_nothing_answers(away, model):
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"could not be sent to lab/breast: http://127\.0\.0\.1:9 cannot be reached"):
        push(model)
    assert time.perf_counter() - start < 2
