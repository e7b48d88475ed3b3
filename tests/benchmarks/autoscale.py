"""Pools under load and after it, on Ray's fake multi-node autoscaling cluster.

What is deployed is the CPU manifest's own ``serveConfigV2``, handed to Ray's REST API as KubeRay does, on pods of the
manifest's groups, with token authentication and an API key. Clients ask in a closed loop until both pools are as large
as they may be; then a few of them go on while targets are taken away, and at last one asks now and then until all is
small again. Every answer must come, and come whole.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.benchmarks.autoscale_picture import Moment, draw
from tests.benchmarks.fake_cluster import FakeCluster, free_port, node_types
from tests.benchmarks.measure import RESULTS, Bar, Report

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "k8s/cpu-demo/rayservice.yaml"
PICTURE = RESULTS / "autoscale.png"

NUM_CLIENTS = 20
NUM_LEFT = 4  # that go on while targets drain
NUM_SEEDS = 4
NUM_TOKENS = 96
NUM_RARE_TOKENS = 16
RARE_SECONDS = 3.0
QUIET_SECONDS = 15.0
HOLD_SECONDS = 20.0
REQUEST_SECONDS = 900.0
START_SECONDS = 900.0
GROW_SECONDS = 600.0
SHRINK_SECONDS = 600.0
PROMPTS = (
    "It was a dark night",
    "She opened the letter",
    "The captain said",
    "In the morning",
    "My dear sir",
    "London",
)
POOLS = {"target": "TargetPool", "draft": "DraftPool"}
LOAD_ENDS = "load ends"


@dataclass
class Tally:
    """What became of the requests."""

    num_sent: int = 0
    num_whole: int = 0
    num_open: int = 0
    problems: list[str] = field(default_factory=list)
    texts: defaultdict[tuple[str, int, int], set[str]] = field(default_factory=lambda: defaultdict(set))


class Trial:
    """One run: a cluster, clients, and a watcher that writes down what it sees."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        spec = manifest["spec"]
        cluster = spec["rayClusterConfig"]
        self.serve_config = yaml.safe_load(spec["serveConfigV2"])
        self.serve_config["http_options"]["port"] = free_port()
        self.serve_config["proxy_location"] = "HeadOnly"
        args = self.serve_config["applications"][0]["args"]
        self.low = {role: args[role]["replicas"] for role in POOLS}
        self.high = {role: args[role]["max_replicas"] for role in POOLS}
        token, key = secrets.token_hex(32), secrets.token_hex(16)
        self.idle_seconds = float(cluster["autoscalerOptions"]["idleTimeoutSeconds"])
        self.cluster = FakeCluster(
            node_types(cluster),
            self.idle_seconds,
            {
                "RAY_AUTH_MODE": cluster["authOptions"]["mode"],
                "RAY_AUTH_TOKEN": token,
                "SLIPSTREAM_API_KEY": key,
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(ROOT),
            },
        )
        self._ray = {"Authorization": f"Bearer {token}"}
        self._door = {"Authorization": f"Bearer {key}"}
        self._url = f"http://127.0.0.1:{self.serve_config['http_options']['port']}"
        self._zero = time.monotonic()
        self.tally = Tally()
        self.moments: list[Moment] = []
        self.marks: dict[str, float] = {}

    async def run(self) -> None:
        """Deploy, load, wait, unload, wait. Raises TimeoutError where the application does not come up."""
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=60.0)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=timeout, limits=limits) as http:
            await self._deploy(http)
            watcher = asyncio.create_task(self._watch(http))
            self._zero = time.monotonic() + QUIET_SECONDS
            await asyncio.sleep(QUIET_SECONDS)
            clients = [asyncio.create_task(self._client(http, index)) for index in range(NUM_CLIENTS)]
            await self._until(lambda now: self._is_at(now, self.high), "at its largest", GROW_SECONDS)
            await asyncio.sleep(HOLD_SECONDS)
            self.marks[LOAD_ENDS] = self._now()
            await end(*clients[NUM_LEFT:])
            await self._until(lambda now: now.replicas["target"] == self.low["target"], "one target", SHRINK_SECONDS)
            rare = asyncio.create_task(self._client(http, 0, NUM_RARE_TOKENS, RARE_SECONDS))
            await end(*clients[:NUM_LEFT])
            await self._until(lambda now: self._is_at(now, self.low), "small again", SHRINK_SECONDS)
            await asyncio.sleep(QUIET_SECONDS)
            await end(rare)
            await end(watcher)

    def largest(self, what: str) -> dict[str, int]:
        """The most that was seen of ``replicas`` or ``nodes``, by role."""
        return {role: max(getattr(moment, what).get(role, 0) for moment in self.moments) for role in POOLS}

    def _now(self) -> float:
        return time.monotonic() - self._zero

    async def _deploy(self, http: httpx.AsyncClient) -> None:
        """Hand the application over until it runs, as an operator does: what is there already is not changed."""
        deadline = time.monotonic() + START_SECONDS
        application: dict[str, Any] = {}
        while application.get("status") != "RUNNING":
            if application.get("status") == "DEPLOY_FAILED" or time.monotonic() > deadline:
                raise TimeoutError(f"the application is not up: {application.get('message', '')[-2000:]}")
            await asyncio.sleep(2)
            with contextlib.suppress(httpx.HTTPError):
                if not application:
                    url = f"{self.cluster.dashboard}/api/serve/applications/"
                    (await http.put(url, json=self.serve_config, headers=self._ray)).raise_for_status()
                application = (await self._applications(http)).get("slipstream", {})

    async def _applications(self, http: httpx.AsyncClient) -> dict[str, Any]:
        answer = await http.get(f"{self.cluster.dashboard}/api/serve/applications/", headers=self._ray)
        applications: dict[str, Any] = answer.json()["applications"]
        return applications

    async def _watch(self, http: httpx.AsyncClient) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError, KeyError):  # a dashboard that is short of time
                self.moments.append(await self._look(http))
            await asyncio.sleep(1.0)

    async def _look(self, http: httpx.AsyncClient) -> Moment:
        deployments = (await self._applications(http))["slipstream"]["deployments"]
        found = await http.get(f"{self.cluster.dashboard}/api/v0/nodes?detail=1&limit=1000", headers=self._ray)
        nodes = [n for n in found.json()["data"]["result"]["result"] if n["state"] == "ALIVE"]
        return Moment(
            time=self._now(),
            replicas={
                role: sum(replica["state"] == "RUNNING" for replica in deployments[name]["replicas"])
                for role, name in POOLS.items()
            },
            nodes={role: sum(f"slipstream-{role}" in node["resources_total"] for node in nodes) for role in POOLS},
            num_open=self.tally.num_open,
            num_finished=self.tally.num_whole,
        )

    async def _client(
        self, http: httpx.AsyncClient, index: int, num_tokens: int = NUM_TOKENS, pause: float = 0.0
    ) -> None:
        """Ask again and again; what is under way when it is cancelled is still waited for."""
        count = 0
        while True:
            prompt = PROMPTS[(index + count) % len(PROMPTS)]
            request = asyncio.ensure_future(self._ask(http, prompt, num_tokens, seed=count % NUM_SEEDS))
            try:
                await asyncio.shield(request)
                await asyncio.sleep(pause)
            except asyncio.CancelledError:
                await request
                raise
            count += 1

    async def _ask(self, http: httpx.AsyncClient, prompt: str, num_tokens: int, seed: int) -> None:
        """One completion, counted as whole if all its tokens came."""
        body = {"model": "demo", "prompt": prompt, "max_tokens": num_tokens, "seed": seed, "ignore_eos": True}
        self.tally.num_sent += 1
        self.tally.num_open += 1
        try:
            answer = await http.post(f"{self._url}/v1/completions", json=body, headers=self._door)
            usage = answer.json().get("usage", {})
            if answer.status_code == 200 and usage.get("completion_tokens") == num_tokens:
                self.tally.num_whole += 1
                self.tally.texts[prompt, seed, num_tokens].add(answer.json()["choices"][0]["text"])
            else:
                self.tally.problems.append(f"{answer.status_code} {answer.text[:300]}")
        except Exception as error:
            self.tally.problems.append(f"{type(error).__name__}: {error}")
        finally:
            self.tally.num_open -= 1

    async def _until(self, is_so: Callable[[Moment], bool], mark: str, seconds: float) -> None:
        """Wait for a state and note when it came; without it, go on after ``seconds``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.moments and is_so(self.moments[-1]):
                self.marks[mark] = self.moments[-1].time
                return
            await asyncio.sleep(0.5)

    def _is_at(self, now: Moment, sizes: Mapping[str, int]) -> bool:
        return now.replicas == sizes and now.nodes == sizes


async def end(*tasks: "asyncio.Task[None]") -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(repeats: int) -> Report:
    """Take one run; ``repeats`` is of no use here."""
    trial = Trial(yaml.safe_load(MANIFEST.read_text()))
    try:
        trial.cluster.start()
        asyncio.run(trial.run())
    finally:
        trial.cluster.stop()
    draw(trial.moments, trial.high, trial.marks.get(LOAD_ENDS), PICTURE)
    return report(trial)


def report(trial: Trial) -> Report:
    """Bars and settings of a run."""
    tally, last = trial.tally, trial.moments[-1]
    found = Report(
        name="autoscale",
        what="the CPU manifest on Ray's fake multi-node autoscaling cluster: load, then none",
        settings={
            "manifest": str(MANIFEST.relative_to(ROOT)),
            "serve_config": trial.serve_config,
            "overrides": {
                "http_options.port": "a free one, since the nodes share one host",
                "proxy_location": "HeadOnly, since on one host no Service stands before the proxies of nodes that go",
                "memory": "left out of the groups' resources, since one host has it all",
            },
            "idle_timeout_seconds": trial.idle_seconds,
            "clients": NUM_CLIENTS,
            "tokens_a_request": NUM_TOKENS,
            "cores": os.cpu_count(),
            "marks_seconds": trial.marks,
            "requests": {"sent": tally.num_sent, "whole": tally.num_whole, "problems": tally.problems[:20]},
            "moments": [asdict(moment) for moment in trial.moments],
        },
    )
    most, pods = trial.largest("replicas"), trial.largest("nodes")
    for role in POOLS:
        found.bars.append(Bar(f"{role}s under load", most[role], must=trial.high[role]))
        found.bars.append(Bar(f"{role} pods under load", pods[role], must=trial.high[role]))
        gone = trial.high[role] - trial.low[role]
        found.bars.append(Bar(f"{role}s taken away after it", most[role] - last.replicas[role], must=gone))
        found.bars.append(Bar(f"{role} pods taken away after it", pods[role] - last.nodes[role], must=gone))
    found.bars.append(Bar("requests sent", tally.num_sent, must=None))
    found.bars.append(Bar("answered whole, share", tally.num_whole / max(1, tally.num_sent), must=1.0))
    found.bars.append(Bar("different requests", len(tally.texts), must=None))
    found.bars.append(
        Bar("of these, with more than one text", sum(len(t) > 1 for t in tally.texts.values()), must=None)
    )
    found.notes += [f"{mark}: {seconds:.0f} s after the load began" for mark, seconds in trial.marks.items()]
    found.pictures.append(PICTURE.name)
    return found
