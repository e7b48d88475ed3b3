"""A Ray of one's own with everything that jobs need: own ports, own folder, ended by its own processes."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT = 300.0
POLL_INTERVAL = 0.5
UP_WORDS = "Ray runtime started"
PORT_OPTIONS = (
    "--port",
    "--dashboard-port",
    "--ray-client-server-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--metrics-export-port",
)


class RayHead:
    """``ray start --head``, from entering to leaving or :meth:`kill`."""

    def __init__(self, num_cpus: int = 4) -> None:
        self._num_cpus = num_cpus
        self._process: subprocess.Popen[bytes] | None = None
        # Short: Ray keeps sockets below it, whose names have a limit.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._ports = dict(zip(PORT_OPTIONS, free_ports(len(PORT_OPTIONS)), strict=True))
        self._token = secrets.token_hex(32)  # Ray's APIs ask for one
        self.log = self._folder / "start.log"

    @property
    def address(self) -> str:
        """For ``RAY_ADDRESS`` of programs that run on this Ray."""
        return f"127.0.0.1:{self._ports['--port']}"

    @property
    def dashboard(self) -> str:
        """For ``ray job submit --address``."""
        return f"http://127.0.0.1:{self._ports['--dashboard-port']}"

    @property
    def environment(self) -> dict[str, str]:
        """Of every process that belongs to this Ray."""
        bin_folder = str(Path(sys.executable).parent)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "HF_HUB_OFFLINE": "1",
        }

    def start(self) -> None:
        """Start it, and wait until it takes jobs; Ray gives up by itself on a busy machine, and is started again.

        Raises RuntimeError where it does not come up.
        """
        deadline = time.monotonic() + START_TIMEOUT
        self._launch()
        while not self._is_up():
            if time.monotonic() > deadline:
                raise RuntimeError(f"Ray does not start: {self.log.read_text()[-2000:]}")
            if self._process is None or self._process.poll() is not None:
                self.kill()
                self._launch()
            time.sleep(POLL_INTERVAL)

    def _launch(self) -> None:
        command = [
            *ray_command("start", "--head", "--block", "--node-ip-address", "127.0.0.1"),
            *("--num-cpus", str(self._num_cpus), "--object-store-memory", str(128 * 1024 * 1024)),
            *("--temp-dir", str(self._folder / "t"), "--min-worker-port", "0", "--max-worker-port", "0"),
            *("--disable-usage-stats", "--include-dashboard", "true"),
            *(word for option, port in self._ports.items() for word in (option, str(port))),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        """Every process of this Ray, jobs included: children of what was started, and those that name its folder."""
        if self._process is None:
            return []
        found: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            found = {process.pid: process for process in [root, *root.children(recursive=True)]}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self._folder) in word for word in process.cmdline()):
                    found |= {child.pid: child for child in [process, *process.children(recursive=True)]}
        return list(found.values())

    def kill(self) -> None:
        """SIGKILL all of it at once, as a power cut would."""
        while processes := self.processes():
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(processes, timeout=10)
            if self._process is not None:
                self._process.wait(10)
                self._process = None if not self.processes() else self._process

    def submit(self, entrypoint: Sequence[str], *, working_dir: Path | None = None) -> str:
        """``ray job submit --no-wait``; returns the job's id. A busy dashboard that drops the call is called again."""
        job_id = f"job-{secrets.token_hex(8)}"
        options = ["--no-wait", "--submission-id", job_id]
        options += ["--working-dir", str(working_dir)] if working_dir is not None else []
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            done = subprocess.run(
                ray_command("job", "submit", "--address", self.dashboard, *options, "--", *entrypoint),
                cwd=working_dir or self._folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=START_TIMEOUT,
            )
            if done.returncode == 0 or self._knows(job_id):
                return job_id
            if time.monotonic() > deadline:
                raise RuntimeError(f"the job was not taken: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            time.sleep(POLL_INTERVAL)

    def job(self, job_id: str) -> Mapping[str, Any]:
        """What Ray knows of a job: ``status``, ``driver_info``, ``message``."""
        details: dict[str, Any] = self._get(f"/api/jobs/{job_id}")
        return details

    def job_log(self, job_id: str) -> str:
        """What a job has said so far."""
        return str(self._get(f"/api/jobs/{job_id}/logs")["logs"])

    def wait(self, job_id: str, timeout: float) -> str:
        """Wait until a job has ended and return its status. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while (status := str(self.job(job_id)["status"])) not in ("SUCCEEDED", "FAILED", "STOPPED"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is {status} after {timeout:g} s: {self.job_log(job_id)[-2000:]}")
            time.sleep(POLL_INTERVAL)
        return status

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_up(self) -> bool:
        """Whether all of it runs and takes jobs; the part that takes jobs may outlive a start that failed."""
        if UP_WORDS not in self.log.read_text():
            return False
        try:
            self._get("/api/jobs/")
        except OSError:
            return False
        return True

    def _knows(self, job_id: str) -> bool:
        try:
            self.job(job_id)
        except OSError:
            return False
        return True

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def ray_command(*arguments: str) -> list[str]:
    """Ray's command line in this environment."""
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
