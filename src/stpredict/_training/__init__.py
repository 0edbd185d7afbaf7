"""Training of networks: the loop (Lightning) and checkpoints that are no pickles."""

from __future__ import annotations
