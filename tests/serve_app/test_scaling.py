"""How many workers a pool gets: the arithmetic, its hysteresis, and Serve's delays around it. No cluster is started."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.autoscaling_policy import _apply_autoscaling_config

from actors.config import WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError
from actors.engine.request import EngineStats
from actors.status import ClusterStats, WorkerStatus
from cluster.config import ClusterConfig, Pool, PoolConfig
from cluster.scaling import ScalingConfig
from serve_app.pools import autoscaling
from serve_app.scaling import (
    BATCH_USE,
    DRAFT_BUSY,
    DRAFT_WAIT,
    KV_USE,
    QUEUED_TOKENS,
    DraftPolicy,
    Loads,
    Need,
    TargetPolicy,
    choose_size,
    drafts_needed,
    targets_needed,
)
from serve_app.signals import signals
from tests.actors.fakes import make_info

GOALS = {QUEUED_TOKENS: 1000.0, KV_USE: 0.8, BATCH_USE: 0.75}
POOL = PoolConfig(worker=WorkerConfig(model=ModelConfig(model="demo")), replicas=1, max_replicas=4)


def target_loads(queued: float = 0.0, kv: float = 0.0, batch: float = 0.0, count: int = 1) -> Loads:
    """A pool of ``count`` targets, all loaded alike."""
    values = {QUEUED_TOKENS: queued, KV_USE: kv, BATCH_USE: batch}
    return {name: {f"r{n}": value for n in range(count)} for name, value in values.items()}


def draft_loads(wait: float, busy: float, count: int = 1) -> Loads:
    """A pool of ``count`` drafts."""
    return {name: {f"r{n}": v for n in range(count)} for name, v in ((DRAFT_WAIT, wait), (DRAFT_BUSY, busy))}


@pytest.mark.parametrize(
    ("loads", "need"),
    [
        (target_loads(), 0.0),
        (target_loads(queued=2500), 2.5),
        (target_loads(kv=0.8, count=3), 3.0),
        (target_loads(batch=1.5), 2.0),
        (target_loads(queued=500, kv=0.4, batch=2.25), 3.0),
    ],
)
def test_targets_follow_the_signal_that_asks_for_most(loads: Loads, need: float) -> None:
    found = targets_needed(loads, GOALS)
    assert found is not None
    assert found.least == found.most == pytest.approx(need)


@pytest.mark.parametrize(
    ("loads", "least", "most"),
    [
        (draft_loads(wait=0.6, busy=1.0), 1.0 / 0.7, 1.0 / 0.7),  # busy, and waited for
        (draft_loads(wait=0.6, busy=0.1), 0.1 / 0.7, 0.1 / 0.7),  # waited for, but not for want of time
        (draft_loads(wait=0.0, busy=0.9, count=3), 0.0, 2.7 / 0.7),  # nobody waits: no more, but no fewer either
        (draft_loads(wait=0.0, busy=0.0, count=3), 0.0, 0.0),
    ],
)
def test_drafts_follow_waits_that_more_of_them_would_shorten(loads: Loads, least: float, most: float) -> None:
    found = drafts_needed(loads, wait=0.3, busy=0.7)
    assert found is not None
    assert found.least == pytest.approx(least)
    assert found.most == pytest.approx(most)


def test_without_reports_a_pool_stays_as_it_is() -> None:
    assert targets_needed({}, GOALS) is None
    assert drafts_needed({DRAFT_WAIT: {"a": 1.0}}, 0.3, 0.7) is None
    assert choose_size(3, None, 0.1) == 3


@pytest.mark.parametrize(
    ("current", "need", "size"),
    [(1, 1.05, 1), (1, 1.2, 2), (2, 1.95, 2), (2, 0.95, 2), (2, 0.85, 1), (3, 0.0, 0), (1, 3.4, 4), (4, 2.0, 3)],
)
def test_a_size_changes_only_beyond_the_tolerance(current: int, need: float, size: int) -> None:
    assert choose_size(current, Need(need, need), 0.1) == size


@given(
    current=st.integers(1, 50),
    needs=st.tuples(st.floats(0, 60), st.floats(0, 60)).map(sorted),
    tolerance=st.floats(0, 0.5),
)
def test_a_size_once_chosen_is_kept(current: int, needs: list[float], tolerance: float) -> None:
    need = Need(needs[0], needs[1])
    size = choose_size(current, need, tolerance)
    assert choose_size(size, need, tolerance) == size
    assert size * (1 + tolerance) >= need.least - 1e-6
    assert size <= max(current, need.most / (1 - tolerance) + 1)


def test_policies_hand_back_a_size_and_no_state() -> None:
    context = SimpleNamespace(aggregated_metrics=target_loads(queued=4400), target_num_replicas=1)
    assert TargetPolicy(1000, 0.8, 0.75, 0.1)(context) == (4, {})
    context = SimpleNamespace(aggregated_metrics=draft_loads(wait=0.9, busy=1.0), target_num_replicas=1)
    assert DraftPolicy(0.3, 0.4, 0.1)(context) == (3, {})
    context = SimpleNamespace(aggregated_metrics=None, target_num_replicas=2)
    assert TargetPolicy(1000, 0.8, 0.75, 0.1)(context) == (2, {})


class Autoscaler:
    """Serve's own wrapper of a policy, delays included, at moments of our choosing."""

    def __init__(self, pool: PoolConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        assert pool.max_replicas is not None
        self.config = autoscaling("target", pool, pool.max_replicas)
        policy: Any = self.config.policy.get_policy()
        self._policy = _apply_autoscaling_config(policy(**self.config.policy.policy_kwargs))
        self._state: dict[str, Any] = {}
        self._now = 0.0
        self.size = pool.replicas
        monkeypatch.setattr("ray.serve.autoscaling_policy.time.time", lambda: self._now)

    def at(self, now: float, queued: float) -> int:
        """The pool's size after a decision at ``now`` under a load."""
        self._now = now
        context: Any = SimpleNamespace(
            aggregated_metrics=target_loads(queued=queued / self.size, count=self.size),
            target_num_replicas=self.size,
            current_num_replicas=self.size,
            total_num_requests=0.0,
            policy_state=dict(self._state),
            config=self.config,
        )
        size, self._state = self._policy(context)
        self.size = min(max(size, self.config.min_replicas), self.config.max_replicas)
        return self.size


def test_a_burst_must_last_and_so_must_a_lull(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = ScalingConfig(target_queued_tokens=1000, upscale_delay=10, downscale_delay=60)
    scaler = Autoscaler(msgspec.structs.replace(POOL, scaling=scaling), monkeypatch)
    assert scaler.at(0, queued=3000) == 1
    assert scaler.at(5, queued=0) == 1  # over before it counted
    assert scaler.at(6, queued=3000) == 1
    assert scaler.at(15, queued=3000) == 1
    assert scaler.at(16.1, queued=3000) == 3
    assert scaler.at(20, queued=0) == 3
    assert scaler.at(70, queued=3000) == 3  # busy again: the lull counts from anew
    assert scaler.at(71, queued=0) == 3
    assert scaler.at(130, queued=0) == 3
    assert scaler.at(132, queued=0) == 1


def test_a_policy_runs_where_slipstream_is_not_installed() -> None:
    import subprocess
    import sys

    assert POOL.max_replicas is not None
    policy = autoscaling("draft", POOL, POOL.max_replicas).policy
    script = (
        "import sys; sys.modules['serve_app'] = sys.modules['cluster'] = sys.modules['actors'] = None\n"
        "import pickle; policy = pickle.loads(sys.stdin.buffer.read())\n"
        "sys.stdout.write(str(policy(0.3, 0.7, 0.1)._busy))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], input=policy.get_serialized_policy_def(), capture_output=True, check=True
    )
    assert found.stdout == b"0.7"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_queued_tokens", 0),
        ("target_kv_use", 1.5),
        ("target_draft_wait", 0.0),
        ("tolerance", 1.0),
        ("window", 0.0),
        ("downscale_delay", 1.0),
        ("drain_timeout", -1.0),
        ("target_kv_usage", 0.5),
    ],
)
def test_a_wrong_field_is_named(field: str, value: float) -> None:
    pool = {"worker": {"model": {"model": "demo"}}, "scaling": {field: value}}
    with pytest.raises(ConfigError, match=field):
        ClusterConfig.from_dict({"target": pool})


def worker(worker_id: str, role: str, pid: int = 1, wait: float = 0.0, **stats: Any) -> WorkerStatus:
    return WorkerStatus(info=make_info(worker_id, role, pid=pid), draft_wait_time=wait, stats=EngineStats(**stats))


def test_what_a_target_tells() -> None:
    stats = ClusterStats(
        workers=(
            worker("t", "target", num_queued_tokens=70, num_blocks=8, num_free_blocks=2, num_running=3, num_waiting=5),
            worker("other", "target", num_queued_tokens=999),
        )
    )
    assert signals("target", "t", 4, None, stats) == {QUEUED_TOKENS: 70.0, KV_USE: 0.75, BATCH_USE: 2.0}
    assert signals("target", "unknown", 4, None, stats) == {}


def test_what_a_draft_tells_is_what_happened_since_it_was_last_asked() -> None:
    before = ClusterStats(
        workers=(worker("d", "draft", step_time=4.0), worker("t", "target", wait=10.0, step_time=30.0)), uptime=100.0
    )
    after = ClusterStats(
        workers=(
            worker("d", "draft", step_time=6.0),
            worker("t", "target", wait=13.0, step_time=36.0),
            worker("new", "target", wait=1.0, step_time=0.0),
        ),
        uptime=108.0,
    )
    told = signals("draft", "d", 4, before, after)
    assert told == {DRAFT_WAIT: pytest.approx(0.4), DRAFT_BUSY: pytest.approx(0.25)}
    restarted = msgspec.structs.replace(after, workers=(worker("d", "draft", pid=2, step_time=2.0), *after.workers[1:]))
    assert signals("draft", "d", 4, before, restarted)[DRAFT_BUSY] == pytest.approx(0.25)
    assert signals("draft", "d", 4, None, after) == {}
    assert signals("draft", "d", 4, after, before) == {}  # another router, whose clock began later


def test_a_pools_deployment_asks_for_its_workers_host() -> None:
    config = ClusterConfig.demo()
    pool = msgspec.structs.replace(
        config.target,
        worker=WorkerConfig(
            model=ModelConfig(model="demo"),
            engine=EngineConfig(),
            num_gpus=4,
            num_cpus=2,
            resources={"slipstream-target": 1.0},
        ),
    )
    from serve_app.pools import pool_deployment

    deployment = pool_deployment(Pool("target", "", pool), config)._bound_deployment
    assert deployment._replica_config.placement_group_bundles == [{"CPU": 2, "GPU": 4, "slipstream-target": 1.0}]
