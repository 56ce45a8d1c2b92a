"""The Serve application: its only deployment is the replica that speaks."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from app.settings import Settings

from .options import DEPLOYMENT_NAME
from .replica import SpeechReplica

# Called here rather than as decorators, so that the class can be tested without Serve.
SPEECH = serve.deployment(name=DEPLOYMENT_NAME)(serve.ingress()(SpeechReplica))


def application(options: dict[str, Any], settings: Settings | None) -> Application:
    """options: of `deployment_options`. settings: of all replicas; None: each reads the environment of its node."""
    return SPEECH.options(**options).bind(settings)


def build(arguments: dict[str, Any]) -> Application:
    """The application of a Serve config file, which holds the options itself; it takes no arguments."""
    if arguments:
        raise ValueError(f"arguments are {sorted(arguments)}, and there are none: set options of the deployment")
    return SPEECH.bind(None)
