"""Processes that are forked after torch has computed in several threads: they compute, too."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORKS = """
import multiprocessing
import numpy as np
import torch
import stpredict as st

torch.set_num_threads(4)
st.settings.progress = False
section = st.datasets.simulate()
st.pp.tiles(section)
few = section[:30].copy()
network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7, stride=4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
st.pp.encode(few, network, key_added="X_net")

def child():
    again = few.copy()
    st.pp.encode(again, network, key_added="X_net")
    np.testing.assert_allclose(again.obsm["X_net"], few.obsm["X_net"], atol=1e-4)

fork = multiprocessing.get_context("fork")
children = [fork.Process(target=child) for _ in range(int(TIMES))]
for one in children:
    one.start()
    one.join(40)
    one.kill()
print([one.exitcode for one in children])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not forked")
@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_fork_after_threads_does_not_hang(times):
    code = FORKS.replace("TIMES", str(times))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str([0] * times), done.stderr
