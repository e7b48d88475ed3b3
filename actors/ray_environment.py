"""What Ray reads from the environment of its processes. Free of Ray: it is set before Ray is started."""

import os

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray holds back the news that an actor's process is gone until it knows why, for one to two seconds. Nobody here
    # asks why: without the wait a death is noticed in 10 ms, and streams go on elsewhere before their readers look up.
    "RAY_timeout_ms_task_wait_for_death_info": "0",
}


def prepare_environment() -> None:
    """Set what is not set already, for this process and those that it starts."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
