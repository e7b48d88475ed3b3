"""What a configuration says of pools that change their size."""

import pytest

from actors.engine.errors import ConfigError
from cluster.config import ClusterConfig
from cluster.scaling import ScalingConfig


def test_the_largest_pools_need_this_much_of_their_own_resources() -> None:
    worker = {"model": {"model": "demo"}, "resources": {"slipstream-target": 1}}
    draft = {"model": {"model": "demo-draft"}, "resources": {"slipstream-draft": 1, "shared": 0.5}}
    config = ClusterConfig.from_dict(
        {"target": {"worker": worker, "replicas": 1, "max_replicas": 3}, "draft": {"worker": draft, "replicas": 2}}
    )
    assert config.custom_resources == {"slipstream-target": 3.0, "slipstream-draft": 2.0, "shared": 1.0}
    assert ClusterConfig.demo().custom_resources == {}


def test_a_pool_must_not_shrink_faster_than_it_grows() -> None:
    with pytest.raises(ConfigError, match=r"downscale_delay: at least upscale_delay \(30\)"):
        ScalingConfig(upscale_delay=30.0, downscale_delay=10.0)
    assert ScalingConfig(upscale_delay=30.0, downscale_delay=30.0).downscale_delay == 30.0
