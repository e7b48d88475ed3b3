"""What Ray reads from the environment of its processes. Free of Ray: it is set before Ray is started."""

import os

MIN_NUM_STARTS = 8

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray holds back the news that an actor's process is gone until it knows why, for one to two seconds. Nobody here
    # asks why: without the wait a death is noticed in 10 ms, and streams go on elsewhere before their readers look up.
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    # Processes that Ray starts at a time, by default as many as there are cores: a router that died must not wait until
    # models that died with it have their processes.
    "RAY_worker_maximum_startup_concurrency": str(max(MIN_NUM_STARTS, os.cpu_count() or 1)),
}


def prepare_environment() -> None:
    """Set what is not set already, for this process and those that it starts."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
