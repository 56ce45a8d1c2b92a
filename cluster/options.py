"""Options of the Serve deployment, from the settings. Imports no Ray: plain values, as in a Serve config file."""

from __future__ import annotations

from typing import Any

from app.settings import Settings

APP_NAME = "csm-serve"
DEPLOYMENT_NAME = "Speech"
IMPORT_PATH = "cluster.deployment:build"
ROUTER = "cluster.router:SlotRouter"
POLICY = "cluster.autoscaling:by_busy_slots"
SCRAPE_COMPLETE = "csm_cluster_scrape_complete"  # a metric that only clusters have

MAX_CONNECTIONS = 4096  # of one replica: requests, status routes and idle WebSockets; and that a proxy may hold back
RETRY_SECONDS = 1  # Retry-After, as on one machine
STATS_SECONDS = 0.5  # how often the router learns each replica's busy slots
HEALTH_SECONDS = 2.0
HEALTH_TIMEOUT_SECONDS = 30.0
LOOK_BACK_SECONDS = 5.0  # the busy slots that decide on scaling are averaged over this time
BUSY_SECONDS = 1.0  # how often replicas tell them
EXIT_SECONDS = 5  # to close the engine after the streams have ended


def deployment_options(settings: Settings, *, gpus: int, replicas: int | None = None) -> dict[str, Any]:
    """Options of `serve.deployment`.

    gpus: of each replica; 0 on machines without one.
    replicas: their fixed number; None scales between CLUSTER_MIN_REPLICAS and CLUSTER_MAX_REPLICAS.

    Slots and their queue are the replica's own admission, which answers 429. Serve's limit of ongoing requests is no
    substitute: it would count idle WebSockets and status routes, and they would wait behind speech. Nor is Serve's
    queue: each proxy has its own, and a request is in it while a replica is chosen, so that with MAX_QUEUED_REQUESTS as
    its limit requests that come at once would be refused while slots are free.
    """
    options: dict[str, Any] = {
        "max_ongoing_requests": MAX_CONNECTIONS,
        "max_queued_requests": MAX_CONNECTIONS,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_SECONDS},
        "health_check_period_s": HEALTH_SECONDS,
        "health_check_timeout_s": HEALTH_TIMEOUT_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": settings.graceful_timeout_seconds + EXIT_SECONDS,
        "logging_config": {"enable_access_log": False},  # the service logs each request itself
        "ray_actor_options": {"num_cpus": 1, "num_gpus": gpus},
        "request_router_config": {
            "request_router_class": ROUTER,
            "request_routing_stats_period_s": STATS_SECONDS,
            "request_routing_stats_timeout_s": HEALTH_TIMEOUT_SECONDS,
        },
    }
    least, most = settings.cluster_min_replicas, settings.cluster_max_replicas or settings.cluster_min_replicas
    if replicas is not None or least >= most:
        return {**options, "num_replicas": least if replicas is None else replicas}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "metrics_interval_s": BUSY_SECONDS,
        "look_back_period_s": LOOK_BACK_SECONDS,
        "upscale_delay_s": settings.cluster_upscale_seconds,
        "downscale_delay_s": settings.cluster_downscale_seconds,
        "policy": {"policy_function": POLICY, "policy_kwargs": {"target_load": settings.cluster_target_load}},
    }
    return {**options, "autoscaling_config": scaling}
