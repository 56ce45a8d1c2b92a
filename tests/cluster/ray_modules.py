"""Ray, where there is a wheel of it for this Python and machine."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def ray_module(name: str) -> Any:
    """Import a module of Ray; skips if there is no Ray. Its own code warns, of pydantic's older names for example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason="no wheel of Ray for this Python or machine")


def valid_config(config: dict[str, Any]) -> Any:
    """A config file of Serve, as its own schema reads it. Raises ValueError."""
    schema = ray_module("ray.serve.schema")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how often busy slots are told: there is no other option
        return schema.ServeDeploySchema.model_validate(config)
