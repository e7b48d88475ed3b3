"""Prometheus metrics, by vLLM's names with the prefix ``slipstream:``.

Requests are measured here at the door. What the cluster counts (tokens, drafts, queues, KV blocks) is read from
:class:`ClusterStats` when a scrape comes, so that callers who do not come through this door are counted as well.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.status import ClusterStats, WorkerStatus

PREFIX = "slipstream:"
FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 60.0)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
REQUEST_BUCKETS = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The door's own registry: nothing of other libraries in the process shows up in it."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._cluster = _ClusterCollector(model_name)
        self._registry.register(self._cluster)
        labels = ["model_name"]
        self.first_token_seconds = Histogram(
            f"{PREFIX}time_to_first_token_seconds",
            "From a request's arrival at the door to its first token.",
            labels,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        ).labels(model_name)
        self.inter_token_seconds = Histogram(
            f"{PREFIX}inter_token_latency_seconds",
            "Between two deliveries of one sequence, over the tokens of the later one.",
            labels,
            buckets=TOKEN_BUCKETS,
            registry=self._registry,
        ).labels(model_name)
        self.request_seconds = Histogram(
            f"{PREFIX}e2e_request_latency_seconds",
            "From a request's arrival at the door to its end.",
            labels,
            buckets=REQUEST_BUCKETS,
            registry=self._registry,
        ).labels(model_name)
        self._finished = Counter(
            f"{PREFIX}request_success",
            "Sequences that ended, by reason.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._refused = Counter(
            f"{PREFIX}http_errors",
            "Requests answered with an error, by HTTP status.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._model_name = model_name

    def count_finished(self, reason: str) -> None:
        """One sequence ended."""
        self._finished.labels(self._model_name, reason).inc()

    def count_error(self, status: int) -> None:
        """One request was answered with an error."""
        self._refused.labels(self._model_name, str(status)).inc()

    def render(self, stats: ClusterStats | None) -> bytes:
        """Prometheus' text format. Without stats (no router to ask) the cluster's own metrics are left out."""
        self._cluster.stats = stats
        return generate_latest(self._registry)


class _ClusterCollector(Collector):
    """Turns the latest ClusterStats into metric families."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self.stats: ClusterStats | None = None

    def collect(self) -> Iterable[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        if self.stats is None:
            return
        yield from self._totals(self.stats)
        yield from self._workers([worker for worker in self.stats.workers if worker.is_alive])

    def _totals(self, stats: ClusterStats) -> Iterator[Metric]:
        targets = [worker.stats for worker in stats.workers if worker.info.role == "target"]
        totals = {
            "spec_decode_num_drafts": ("Rounds that checked a proposal.", stats.num_drafts),
            "spec_decode_num_draft_tokens": ("Drafted tokens that were checked.", stats.num_draft_tokens),
            "spec_decode_num_accepted_tokens": ("Drafted tokens that were accepted.", stats.num_accepted_tokens),
            "spec_decode_num_rounds": ("Forwards that checked drafts, of any sequences.", stats.drafting.num_rounds),
            "spec_decode_num_ahead_hits": (
                "Times that a sequence's next drafts were at hand when its step had ended.",
                stats.drafting.num_ahead_hits,
            ),
            "spec_decode_num_branch_hits": (
                "Times that a draft had gone on from its second choice, and the target had that.",
                stats.drafting.num_branch_hits,
            ),
            "spec_decode_num_probes": ("Questions to drafts that do not pay.", stats.drafting.num_probes),
            "spec_decode_target_bubble_seconds": (
                "Seconds in which targets stood still for drafts.",
                stats.draft_wait_time,
            ),
            "spec_decode_draft_bubble_seconds": (
                "Seconds in which drafts stood still for targets.",
                stats.drafting.idle_time,
            ),
            "generation_tokens": ("Tokens emitted.", stats.num_generated_tokens),
            "prompt_tokens": ("Prompt tokens prefilled.", sum(target.num_prompt_tokens for target in targets)),
            "prefix_cache_hits": (
                "Prompt tokens found in a prefix cache.",
                sum(target.num_prefix_hit_tokens for target in targets),
            ),
            "num_preemptions": ("Sequences set back for want of blocks.", sum(t.num_preemptions for t in targets)),
        }
        for name, (words, value) in totals.items():
            family = CounterMetricFamily(f"{PREFIX}{name}", words, labels=["model_name"])
            family.add_metric([self._model_name], value)
            yield family
        family = CounterMetricFamily(
            f"{PREFIX}spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens that were accepted, by their position in the proposal.",
            labels=["model_name", "position"],
        )
        for position, value in enumerate(stats.num_accepted_tokens_per_pos):
            family.add_metric([self._model_name, str(position)], value)
        yield family

    def _workers(self, workers: list[WorkerStatus]) -> Iterator[Metric]:
        gauges: dict[str, tuple[str, Callable[[WorkerStatus], float]]] = {
            "num_requests_running": ("Sequences in the running batch.", lambda w: w.stats.num_running),
            "num_requests_waiting": ("Sequences that wait for room.", lambda w: w.stats.num_waiting),
            "kv_cache_usage_perc": ("Share of KV blocks in use; 1 is all of them.", lambda w: w.stats.kv_use),
            "num_queued_tokens": ("Tokens that wait for a forward.", lambda w: w.stats.num_queued_tokens),
        }
        counters: dict[str, tuple[str, Callable[[WorkerStatus], float]]] = {
            "step_seconds": ("Seconds that steps have taken.", lambda w: w.stats.step_time),
            "draft_wait_seconds": ("Seconds in which a target stood still for drafts.", lambda w: w.draft_wait_time),
        }
        labels = ["model_name", "engine", "role"]
        for family_class, metrics in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, (words, value) in metrics.items():
                family = family_class(f"{PREFIX}{name}", words, labels=labels)
                for worker in workers:
                    family.add_metric([self._model_name, worker.info.worker_id, worker.info.role], value(worker))
                yield family
