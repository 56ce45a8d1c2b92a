"""The generated Serve config, checked by Ray's own schema."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from app.cli.main import main
from app.settings import Settings
from cluster.config import serve_config
from cluster.options import DEPLOYMENT_NAME, deployment_options
from tests.cluster.ray_modules import valid_config


def test_a_fixed_number_needs_no_autoscaling(settings: Settings) -> None:
    options = deployment_options(settings, gpus=1, replicas=3)
    assert options["num_replicas"] == 3
    assert "autoscaling_config" not in options
    assert deployment_options(settings, gpus=1)["num_replicas"] == 1


def test_the_limits_of_autoscaling_are_the_settings(settings: Settings) -> None:
    changed = settings.model_copy(update={"cluster_max_replicas": 8, "cluster_target_load": 0.5})
    scaling = deployment_options(changed, gpus=1)["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 8)
    assert scaling["policy"]["policy_kwargs"] == {"target_load": 0.5}


def test_streams_have_the_graceful_timeout_to_end(settings: Settings) -> None:
    options = deployment_options(settings, gpus=0)
    assert options["graceful_shutdown_timeout_s"] > settings.graceful_timeout_seconds


@pytest.mark.usefixtures("settings")
def test_the_printed_config_is_valid_for_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "config", "--replicas", "2"]) == 0
    printed = capsys.readouterr().out
    assert "first-key" not in printed
    config: dict[str, Any] = yaml.safe_load(printed)
    valid = valid_config(config)
    (deployment,) = valid.applications[0].deployments
    assert (deployment.name, deployment.num_replicas) == (DEPLOYMENT_NAME, 2)
    config["applications"][0]["deployments"][0]["max_ongoing_requests"] = 0
    with pytest.raises(ValueError, match="max_ongoing_requests"):
        valid_config(config)


def test_the_autoscaling_policy_is_valid_for_serve(settings: Settings) -> None:
    changed = settings.model_copy(update={"cluster_max_replicas": 8})
    valid = valid_config(serve_config(changed, gpus=1))
    assert valid.applications[0].deployments[0].autoscaling_config["max_replicas"] == 8


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_an_invalid_number_of_replicas_is_named(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cluster", "up", "--replicas", number])
    assert "is not a whole number from 1" in capsys.readouterr().err
