"""Kills the driver, the actors and the whole Ray of a batch job, submits it again, and compares all of its texts."""

import contextlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError

import msgspec
import psutil
import yaml
from tqdm import tqdm

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from cluster.config import ClusterConfig, PoolConfig
from tests.batch_files import text_requests, texts, write_lines
from tests.chaos.outcome import Outcome
from tests.ray_head import ROOT, RayHead

COUNT = 20
NUM_REQUESTS = 150
PAUSES = (0.5, 12.0)  # seconds between a result that shows that the job runs, or the last kill, and the next one
JOB_TIMEOUT = 900.0
RAY_TIMEOUT = 120.0  # without an answer, after which a Ray counts as dead
POLL_INTERVAL = 0.1
PACKAGES = ("actors", "cluster", "serve_app")

Victim = Literal["driver", "feeder", "target", "draft", "router", "ray"]
VICTIMS: tuple[Victim, ...] = ("driver", "target", "feeder", "driver", "router", "draft", "driver", "ray")
TITLES = {
    "feeder": "ray::MapWorker",
    "target": "ray::TargetActor",
    "draft": "ray::DraftActor",
    "router": "ray::RouterActor",
}


def config() -> ClusterConfig:
    """The embedded pair in float32 without quantization: its tokens do not depend on the shape of a batch."""

    def pool(model: str) -> PoolConfig:
        worker = WorkerConfig(
            model=ModelConfig(model=model, dtype="float32"),
            engine=EngineConfig(num_blocks=1024, max_num_seqs=16),
        )
        return PoolConfig(worker=worker)

    return ClusterConfig(
        name="demo", target=pool("demo"), draft=pool("demo-draft"), router=RouterConfig(num_assistant_tokens=3)
    )


@dataclass
class Campaign:
    """One file of results and the jobs that write it, until it is whole."""

    head: RayHead
    folder: Path
    output: Path
    job_id: str = ""
    num_submitted: int = 0
    num_lost: int = 0
    seconds_to_go_on: list[float] = field(default_factory=list)
    _answered_at: float = 0.0

    def submit(self) -> None:
        """Submit the job with the same words as ever."""
        entrypoint = ["python", "-m", "cluster.batch", "--config", str(self.folder / "cluster.yaml")]
        entrypoint += ["--input", str(self.folder / "requests.jsonl"), "--output", str(self.output)]
        while True:
            try:
                self.job_id = self.head.submit(entrypoint, working_dir=self.folder / "code")
                break
            except RuntimeError:
                self._replace_ray()
        self.num_submitted += 1
        self._answered_at = time.monotonic()

    def num_results(self) -> int:
        """Lines of the file of results."""
        return self.output.read_bytes().count(b"\n") if self.output.exists() else 0

    def is_over(self) -> bool:
        """Whether the job has ended, in whatever way; a new Ray knows nothing of it."""
        try:
            status = self.head.job(self.job_id)["status"]
        except HTTPError:
            return True
        except OSError:
            if is_lost := time.monotonic() - self._answered_at > RAY_TIMEOUT:
                self._replace_ray()
            return is_lost
        self._answered_at = time.monotonic()
        return status in ("SUCCEEDED", "FAILED", "STOPPED")

    def _replace_ray(self) -> None:
        """A Ray that does not answer any more is one more that died, on a machine that is too busy for it."""
        self.num_lost += 1
        self.head.kill()
        self.head.start()

    def wait_for_results(self) -> None:
        """Until a job that was just submitted has brought something new, or is over."""
        before, begun = self.num_results(), time.monotonic()
        while self.num_results() == before and not self.is_over():
            assert time.monotonic() - begun < JOB_TIMEOUT, self.head.job_log(self.job_id)[-4000:]
            time.sleep(POLL_INTERVAL)
        self.seconds_to_go_on.append(time.monotonic() - begun)


def run(count: int, seed: int) -> Outcome:
    """Run the job undisturbed, then as often as it takes for ``count`` kills to have hit it."""
    source = random.Random(seed)
    victims = [VICTIMS[index % len(VICTIMS)] for index in range(count)]
    source.shuffle(victims)
    with tempfile.TemporaryDirectory() as name, RayHead() as head:
        folder = Path(name)
        for package in PACKAGES:  # a copy, so that all jobs run the same code
            shutil.copytree(ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
        write_lines(folder / "requests.jsonl", text_requests(NUM_REQUESTS))
        (folder / "cluster.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(config())))
        calm = Campaign(head, folder, folder / "calm.jsonl")
        disturb(calm, [], source, lambda victim: None)
        expected = texts(calm.output)
        campaigns: list[Campaign] = []
        with tqdm(total=count, unit="kill", dynamic_ncols=True) as progress:

            def hit(victim: Victim) -> None:
                progress.set_postfix_str(victim)
                progress.update(1)

            while victims:
                campaigns.append(Campaign(head, folder, folder / f"disturbed-{len(campaigns)}.jsonl"))
                disturb(campaigns[-1], victims, source, hit)
        return report(calm, expected, campaigns, count, seed)


def disturb(campaign: Campaign, victims: list[Victim], source: random.Random, hit: Callable[[Victim], None]) -> None:
    """Kill ``victims`` one after the other until the results are whole; takes those that were hit off the list."""
    campaign.submit()
    campaign.wait_for_results()
    while campaign.num_results() < NUM_REQUESTS:
        if victims:
            pause_until = time.monotonic() + source.uniform(*PAUSES)
            while time.monotonic() < pause_until and not campaign.is_over():
                time.sleep(POLL_INTERVAL)
            if not campaign.is_over() and kill(campaign.head, victims[0]):
                hit(victims.pop(0))
        else:
            time.sleep(POLL_INTERVAL)
        if campaign.is_over() and campaign.num_results() < NUM_REQUESTS:
            campaign.submit()
            campaign.wait_for_results()


def kill(head: RayHead, victim: Victim) -> bool:
    """SIGKILL a victim; a Ray that was killed is started anew. Returns whether there was one to hit."""
    if victim == "ray":
        head.kill()
        head.start()
        return True
    found = [process for process in head.processes() if _is(process, victim)]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(found)


def _is(process: psutil.Process, victim: Victim) -> bool:
    with contextlib.suppress(psutil.Error):
        words: list[str] = process.cmdline()
        if victim == "driver":
            return words[1:3] == ["-m", "cluster.batch"]
        return bool(words) and words[0].startswith(TITLES[victim])
    return False


def report(calm: Campaign, expected: dict[str, Any], campaigns: list[Campaign], count: int, seed: int) -> Outcome:
    """Every id exactly once, with the text of the undisturbed run."""
    failures = []
    for number, campaign in enumerate(campaigns):
        try:
            found = texts(campaign.output)
        except AssertionError as error:
            failures.append(f"campaign {number}: {error}")
            continue
        failures += [f"campaign {number}: no result for {key}" for key in expected.keys() - found.keys()]
        failures += [
            f"campaign {number}: a result for {key}, which was not asked for" for key in found.keys() - expected
        ]
        failures += [
            f"campaign {number}: other text for {k}" for k in expected.keys() & found if found[k] != expected[k]
        ]
    victims = Counter(VICTIMS[index % len(VICTIMS)] for index in range(count))
    figures = {
        "kills": dict(victims),
        "campaigns": len(campaigns),
        "jobs_submitted": sum(campaign.num_submitted for campaign in campaigns),
        "submissions_of_the_undisturbed_run": calm.num_submitted,
        "rays_lost_to_load": sum(campaign.num_lost for campaign in campaigns),
        "requests": NUM_REQUESTS,
        "results_compared": NUM_REQUESTS * len(campaigns),
        "differences": len(failures),
        "seconds_from_submission_to_results": [
            round(seconds, 1) for campaign in campaigns for seconds in campaign.seconds_to_go_on
        ],
        "settings": {"pauses": PAUSES, "seed": seed, "model": "demo", "dtype": "float32"},
    }
    what = "SIGKILL of a batch job's driver, its actors or its whole Ray at random moments; the job submitted again"
    return Outcome("chaos_batch", what, figures, failures)
