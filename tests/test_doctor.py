"""`stpredict.doctor` tells what is there and what is missing for what, without a network and whatever is broken."""

from __future__ import annotations

import builtins
import os
import socket
import tomllib
from importlib.metadata import version
from inspect import getdoc, signature
from pathlib import Path

import pytest
from huggingface_hub import constants
from numpydoc.docscrape import FunctionDoc

import stpredict as st
from stpredict import _doctor, cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        msg = "the network was asked"
        raise AssertionError(msg)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_report_has_versions_devices_encoders_folders_and_what_is_missing():
    report = st.doctor(show=False)
    assert list(report) == ["versions", "devices", "encoders", "folders", "missing extras"]
    assert report["versions"]["stpredict"] == st.__version__
    assert report["versions"]["anndata"] == version("anndata")
    assert "not installed" not in report["versions"].values()
    assert str(st.settings.cache_dir) in report["folders"]["settings.cache_dir"]


def test_it_prints_and_the_command_line_prints_the_same(capsys):
    assert st.doctor() is None
    printed = capsys.readouterr().out
    assert ["stpredict", st.__version__] in [line.split() for line in printed.splitlines()]
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == printed


def test_encoders_kept_on_this_machine_are_told_from_those_to_download(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--bioptimus--H-optimus-0").mkdir()
    (tmp_path / "models--timm--resnet18.a1_in1k").mkdir()
    encoders = st.doctor(show=False)["encoders"]
    assert encoders["h-optimus-0"] == "at hand; licence Apache-2.0"
    assert encoders["uni2-h"].startswith(
        "not on this machine; gated: ask for access at huggingface.co/MahmoodLab/UNI2-h"
    )
    assert encoders["phikon-v2"].startswith("not on this machine; open")
    assert encoders["timm"] == "at hand: resnet18.a1_in1k"


def test_a_missing_extra_is_named_with_its_purpose_and_command(monkeypatch):
    monkeypatch.setattr(_doctor, "find_spec", lambda module: None if module == "faiss" else object())
    missing = st.doctor(show=False)["missing extras"]
    assert missing == {"faiss": "for settings.search = 'approximate': pip install 'stpredict[faiss]'"}


def test_every_extra_for_users_is_known():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for_users = set(extras) - {"test", "docs", "tutorials", "dev"}
    named = {extra.install for extra in _doctor.EXTRAS}
    assert {f"'stpredict[{extra}]'" for extra in for_users} <= named


def test_a_broken_torch_is_told(monkeypatch):
    real = builtins.__import__

    def without_torch(name, *rest):
        if name == "torch":
            msg = "libcudart.so.13: cannot open shared object file"
            raise OSError(msg)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert st.doctor(show=False)["devices"]["used"] == "none: libcudart.so.13: cannot open shared object file"


def test_a_device_that_is_not_there_is_told():
    with st.settings.override(device="nowhere"):
        assert "no device 'nowhere'" in st.doctor(show=False)["devices"]["used"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 2048)
    with st.settings.override(cache_dir=tmp_path):
        assert st.doctor(show=False)["folders"]["settings.cache_dir"] == f"{tmp_path}: 2 KiB"
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert "NOT WRITABLE" in st.doctor(show=False)["folders"]["settings.cache_dir"]


def test_it_is_documented_and_in_the_api_reference():
    doc = FunctionDoc(st.doctor)
    assert doc["Returns"]
    assert [entry.name for entry in doc["Parameters"]] == list(signature(st.doctor).parameters)
    assert ">>> report = st.doctor(show=False)" in getdoc(st.doctor)
    assert "   doctor" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines()
