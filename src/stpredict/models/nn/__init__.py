"""Blocks that networks are built from."""

from __future__ import annotations
