"""What several folders of tests share: one Ray for the whole run, started by the first test that needs it."""

import logging
from collections.abc import Iterator

import pytest

from actors.config import NAMESPACE
from actors.ray_environment import prepare_environment


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of this run's own, with CPUs to promise but none to spare."""
    prepare_environment()
    import ray

    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=8,
        object_store_memory=100 * 1024 * 1024,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
