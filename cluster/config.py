"""The config file of `serve deploy`, and of the serveConfigV2 of a RayService."""

from __future__ import annotations

from typing import Any

from app.settings import Settings

from .options import APP_NAME, DEPLOYMENT_NAME, IMPORT_PATH, deployment_options


def serve_config(
    settings: Settings, *, gpus: int, replicas: int | None = None, proxies: str = "EveryNode"
) -> dict[str, Any]:
    """A ServeDeploySchema as plain values. It holds no secret: replicas read their settings on their own nodes."""
    return {
        "proxy_location": proxies,
        "http_options": {"host": settings.host, "port": settings.port},
        "applications": [
            {
                "name": APP_NAME,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "deployments": [
                    {"name": DEPLOYMENT_NAME, **deployment_options(settings, gpus=gpus, replicas=replicas)}
                ],
            }
        ],
    }
