"""The audit itself: every prompt plain and assisted, greedy and sampled; then speeds, setting by setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from actors.engine.request import Request
from actors.status import ClusterStats, WorkerInfo
from actors.step_times import sum_step_times
from cluster.audit.divergence import Divergence, Noise, first_divergence
from cluster.audit.report import EXACT_DTYPES, AuditReport, Comparison, Subject
from cluster.bench.prompts import make_requests
from cluster.bench.run_options import RunOptions
from cluster.bench.runs import Run, Runner
from cluster.bench.speculation import figures, measure, settings
from cluster.config import ClusterConfig

NUM_LOGPROBS = 20  # alternatives that each token is listed with, among which the other run's should be


def audit(
    runner: Runner,
    config: ClusterConfig,
    prompts: Sequence[Sequence[int]],
    options: RunOptions,
    decode: Callable[[int], str] = str,
) -> AuditReport:
    """Audit a cluster that runs.

    Args:
        runner: on the cluster.
        config: of the cluster.
        prompts: token ids.
        options: how; the temperature, which must not be 0, is that of the sampled texts.
        decode: shows a token.

    Raises:
        RequestError, GenerationError: a request was refused, or failed.
    """
    model = config.target.worker.model
    of_settings = settings(config.router, runner.stats(), options.draft_lengths)

    def requests(fields: Mapping[str, Any], num_draft_tokens: int | None) -> list[Request]:
        return make_requests(model, prompts, fields, seed=options.seed, num_draft_tokens=num_draft_tokens)

    comparisons = compare(runner, requests, of_settings, options)
    turns = measure(
        runner,
        lambda k: requests(options.greedy, k),
        of_settings,
        repeats=options.repeats,
        concurrency=options.concurrency,
    )
    every = [turn for of_setting in turns.values() for turn in of_setting]
    tokens = {t for one in comparisons for d in one.divergences for t in (d.plain_token, d.assisted_token) if t >= 0}
    return AuditReport(
        subject=describe(config, runner.stats()),
        comparisons=tuple(comparisons),
        figures=tuple(figures(turns, of_settings)),
        target_steps=sum_step_times(turn.target_steps for turn in every),
        draft_steps=sum_step_times(turn.draft_steps for turn in every),
        settings={**asdict(options), "num_prompts": len(prompts)},
        texts={token: decode(token) for token in tokens},
    )


def compare(
    runner: Runner,
    requests: Callable[[Mapping[str, Any], int | None], list[Request]],
    of_settings: Mapping[str, int | None],
    options: RunOptions,
) -> list[Comparison]:
    """Run every prompt without drafts, as the cluster drafts by itself, and with the longest of the draft lengths."""
    longest = max((k for k in of_settings.values() if k is not None), default=0)
    assisted = {name: k for name, k in of_settings.items() if k is None or 0 < k == longest}
    modes = {"greedy": options.greedy, "sampled": options.fields}
    found = []
    with tqdm(total=len(modes) * (1 + len(assisted)), unit="run", disable=None) as progress:
        for mode, fields in modes.items():
            listed = {**fields, "logprobs": NUM_LOGPROBS}

            def run(k: int | None, fields: Mapping[str, Any] = listed, mode: str = mode) -> list[Run]:
                progress.set_description(f"{mode}, {'plain' if k == 0 else 'assisted'}")
                runs = runner.run(requests(fields, k), options.concurrency)
                progress.update()
                return runs

            plain = run(0)
            noises = [_noise(request) for request in requests(listed, 0)]
            found += [_comparison(mode, name, plain, run(k), noises) for name, k in assisted.items()]
    return found


def _comparison(
    mode: str, setting: str, plain: Sequence[Run], assisted: Sequence[Run], noises: Sequence[Noise]
) -> Comparison:
    found: list[Divergence] = []
    num_tokens = 0
    for prompt, (one, other, noise) in enumerate(zip(plain, assisted, noises, strict=True)):
        divergence = first_divergence(prompt, one, other, noise)
        num_tokens += len(one.token_ids) if divergence is None else divergence.index
        if divergence is not None:
            found.append(divergence)
    return Comparison(
        mode=mode,
        setting=setting,
        num_prompts=len(plain),
        num_equal=len(plain) - len(found),
        num_tokens=num_tokens,
        divergences=tuple(found),
    )


def _noise(request: Request) -> Noise:
    """The noise that a request's tokens are chosen with; none where it is greedy."""

    def noise(index: int, token_ids: Sequence[int]) -> Sequence[float]:
        if not request.params.do_sample:
            return [0.0] * len(token_ids)
        from actors.engine.noise import gumbel_values

        return gumbel_values(request.params.seed, len(request.prompt_token_ids) + index, token_ids)

    return noise


def describe(config: ClusterConfig, stats: ClusterStats) -> Subject:
    """Say what is audited."""
    infos = [worker.info for worker in stats.workers if worker.is_alive]
    targets = [info for info in infos if info.role == "target"]
    overlap = {None: "as each target finds out", True: "on", False: "off"}[config.router.overlap]
    return Subject(
        model=config.name,
        targets=tuple(map(_words, targets)),
        drafts=tuple(_words(info) for info in infos if info.role == "draft"),
        is_exact=bool(targets) and all(map(is_exact, targets)),
        overlap=overlap,
    )


def is_exact(info: WorkerInfo) -> bool:
    """Whether a target computes in full precision, so that the shape of a batch cannot decide a token."""
    return info.quantization == "none" and info.dtype in EXACT_DTYPES


def _words(info: WorkerInfo) -> str:
    loaded = " ".join(filter(None, (info.quantization if info.quantization != "none" else "", info.dtype)))
    return f"{info.model} ({', '.join(filter(None, (loaded, *info.devices)))})"
