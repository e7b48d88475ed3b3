"""``slipstream serve``: a local Ray, Serve on it, and the application, until Ctrl-C leaves nothing of them."""

import contextlib
import importlib
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import msgspec

from actors.engine.catalog import find_checkpoint
from actors.engine.errors import ConfigError, SlipstreamError
from actors.ray_environment import prepare_environment
from cluster.config import ClusterConfig
from serve_app.keys import ONE_KEY, are_demanded
from serve_app.progress import Progress

APP_NAME = "slipstream"
POLL_SECONDS = 0.25
NUM_BYTES_OBJECT_STORE = 128 * 1024 * 1024  # only small messages travel


def serve_forever(config: ClusterConfig, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until SIGINT or SIGTERM, then shut everything down and return.

    Progress goes to stderr; once a target is ready, the URL and a curl line go to stdout.

    Raises:
        ConfigError: the port is taken, a model is not there, or the configuration cannot work.
        SlipstreamError: the application could not be started.
    """
    check_port(host, port)
    for model in (pool.config.worker.model for pool in config.pools):
        find_checkpoint(model.model, model.revision)
    progress = Progress(sys.stderr)
    stop = threading.Event()
    with _signals_set(stop):
        progress.say("starting Ray")
        with _local_ray(config), _signals_set(stop):  # Ray sets handlers of its own when it starts
            if not stop.is_set():
                _serve(config, host, port, progress, stop)
        progress.say("stopped")


def check_port(host: str, port: int) -> None:
    """Raises ConfigError where nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error


def _serve(config: ClusterConfig, host: str, port: int, progress: Progress, stop: threading.Event) -> None:
    from ray import serve

    from serve_app.app import build_app

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        progress.say("starting Serve")
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
        application = build_app(msgspec.to_builtins(config))
        target = serve.RunTarget(target=application, name=APP_NAME, logging_config=quiet)
        serve.run_many([target], wait_for_applications_running=False)
        if _wait_until_ready(config, progress, stop):
            _print_hello(config, host, port)
        while not stop.wait(POLL_SECONDS):
            pass
        progress.say("shutting down")
    finally:
        serve.shutdown()


def _wait_until_ready(config: ClusterConfig, progress: Progress, stop: threading.Event) -> bool:
    """Follow the deployments until all replicas run; False where stopped before. Raises SlipstreamError."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    begin = time.monotonic()
    while not stop.wait(POLL_SECONDS):
        app = serve.status().applications.get(APP_NAME)
        if app is None:
            continue
        if app.status is ApplicationStatus.DEPLOY_FAILED:
            raise SlipstreamError(failure(app.message, [d.message for d in app.deployments.values()]))
        for name, deployment in app.deployments.items():
            progress.say_once(f"{name}: {'ready' if deployment.status == 'HEALTHY' else 'starting'}")
        if app.status is ApplicationStatus.RUNNING:
            progress.say(f"ready after {time.monotonic() - begin:.1f} s")
            return True
    return False


def failure(message: str, details: list[str]) -> str:
    """The line of Serve's messages that says why, out of the tracebacks around it."""
    lines = [line.strip() for text in (*details, message) for line in text.splitlines()]
    causes = [line for line in lines if "Error: " in line and not line.startswith(("File ", "ray."))]
    return re.sub(r"^(\w+\.)+", "", causes[-1]) if causes else message


def curl_line(config: ClusterConfig, host: str, port: int) -> str:
    """A command that streams a first text."""
    body = f'{{"model": "{config.name}", "prompt": "It was a dark night", "max_tokens": 64, "stream": true}}'
    key = f' -H "Authorization: Bearer ${ONE_KEY}"' if are_demanded(config.api_keys_file) else ""
    return f"curl -N {url(host, port)}/v1/completions -H 'Content-Type: application/json'{key} -d '{body}'"


def url(host: str, port: int) -> str:
    """Where a browser on this machine finds the server."""
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def _print_hello(config: ClusterConfig, host: str, port: int) -> None:
    sys.stdout.write(f"{url(host, port)}\n{curl_line(config, host, port)}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _local_ray(config: ClusterConfig) -> Iterator[None]:
    """A Ray of our own for as long as the context lasts."""
    prepare_environment()
    import ray

    # Ray starts its processes while this one imports Serve.
    threading.Thread(target=importlib.import_module, args=("serve_app.app",), daemon=True).start()
    pools = [pool.config for pool in config.pools]
    num_cpus = sum(pool.worker.num_cpus * (pool.max_replicas or pool.replicas) for pool in pools)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, math.ceil(num_cpus)),
        resources=config.custom_resources,
        object_store_memory=NUM_BYTES_OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _signals_set(stop: threading.Event) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an event, so that shutting down is never cut short by a second one."""

    def on_signal(signum: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
