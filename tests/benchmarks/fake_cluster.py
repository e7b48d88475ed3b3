"""Ray's fake multi-node cluster: real raylets on one machine, added and taken away by Ray's real autoscaler.

Ray's own helper for it ends every Ray on the machine when it starts and stops; this one knows its own processes by a
mark in their environment. Pod shapes are read from a manifest by the code with which Ray's autoscaler reads them on
Kubernetes.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray.util
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

KUBERAY_HEAD = "headgroup"  # what Ray calls the group of the head pod
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
MARK = "SLIPSTREAM_FAKE_CLUSTER"
OBJECT_STORE_BYTES = 80 * 1024 * 1024
START_SECONDS = 120.0


def node_types(ray_cluster: Mapping[str, Any]) -> dict[str, Any]:
    """The autoscaler's node types for the groups of a RayCluster's spec. Memory is left out: one machine has it all."""
    types: dict[str, Any] = _generate_available_node_types_from_ray_cr_spec(dict(ray_cluster))
    types[FAKE_HEAD_NODE_TYPE] = types.pop(KUBERAY_HEAD)
    for name, kind in types.items():
        kind["resources"].pop("memory", None)
        if name != FAKE_HEAD_NODE_TYPE:
            kind["resources"]["object_store_memory"] = OBJECT_STORE_BYTES
    return types


class FakeCluster:
    """A head and, as load asks for them, nodes of the given types. ``environment`` is that of every process."""

    def __init__(self, types: Mapping[str, Any], idle_seconds: float, environment: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fake-ray-", dir="/tmp"))
        self._mark = secrets.token_hex(8)
        self._host = ray.util.get_node_ip_address()
        self._port, self._dashboard_port = free_port(), free_port()
        self.environment = {
            **environment,
            MARK: self._mark,
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._config = {
            "cluster_name": "fake",
            "max_workers": sum(kind["max_workers"] for kind in types.values()),
            "idle_timeout_minutes": idle_seconds / 60,
            "upscaling_speed": 1000,
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            "available_node_types": dict(types),
            "provider": {
                # By its class: Ray's wheel lacks the defaults that go with the provider's own name.
                "type": "external",
                "module": PROVIDER,
                "gcs_address": self.address,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
            },
            "auth": {},
            "file_mounts": {},
            **{
                name: []
                for name in (
                    "cluster_synced_files",
                    "initialization_commands",
                    "setup_commands",
                    "head_setup_commands",
                    "worker_setup_commands",
                    "head_start_ray_commands",
                    "worker_start_ray_commands",
                )
            },
        }
        self._head: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where nodes find the head."""
        return f"{self._host}:{self._port}"

    @property
    def dashboard(self) -> str:
        """Base URL of Ray's REST API."""
        return f"http://{self._host}:{self._dashboard_port}"

    def start(self) -> None:
        """Start the head. Raises TimeoutError where it does not come up."""
        config = self._folder / "autoscaler.json"
        config.write_text(json.dumps(self._config))
        head = self._config["available_node_types"][FAKE_HEAD_NODE_TYPE]["resources"]
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            f"--dashboard-host={self._host}",
            f"--port={self._port}",
            f"--dashboard-port={self._dashboard_port}",
            *(
                f"--ray-client-server-port={free_port()}",
                "--dashboard-agent-listen-port=0",
                "--dashboard-agent-grpc-port=0",
            ),
            f"--temp-dir={self._folder}",
            f"--autoscaling-config={config}",
            f"--num-cpus={head['CPU']}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
        ]
        log = (self._folder / "head.log").open("wb")
        self._head = subprocess.Popen(
            command, env={**os.environ, **self.environment}, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while not all(_listens(self._host, port) for port in (self._port, self._dashboard_port)):
            if time.monotonic() > deadline or self._head.poll() is not None:
                raise TimeoutError(f"the head has not come up: {(self._folder / 'head.log').read_text()[-2000:]}")
            time.sleep(0.5)

    def stop(self) -> None:
        """End every process of this cluster, and no other."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            own = list(self._processes())
            for process in own:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            psutil.wait_procs(own, timeout=10)
        if self._head is not None:
            self._head.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _processes(self) -> Iterator[psutil.Process]:
        """Processes that carry the mark, this one apart."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(MARK) == self._mark:
                    yield process


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
