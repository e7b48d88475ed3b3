"""Row 4: a draft and its target in one process, against plain decoding and transformers' assisted generation."""

from collections.abc import Callable

from cluster.bench.measure import Bar, Report, interleave, timed
from tests.gpu.benchmarks import native
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.one_stream import num_equal
from tests.gpu.benchmarks.streams import Drafted, cycling, ragged_prompts, run_assisted, run_plain

NUM_PROMPT_TOKENS = 64
MUST_OVER_PLAIN = 1.8
MUST_OVER_ASSISTED = 4.0
OURS, PLAIN, THEIRS = "slipstream, assisted", "slipstream, plain", "transformers, assisted"


def measure(
    report: Report, ours: Callable[[], int], plain: Callable[[], int], theirs: Callable[[], int], repeats: int
) -> None:
    """Add tokens a second of the three, which take turns, and both ratios."""
    contenders = {OURS: timed(ours), PLAIN: timed(plain), THEIRS: timed(theirs)}
    report.samples |= interleave(contenders, unit="tok/s", repeats=repeats)
    report.ratio("over our plain", OURS, PLAIN, MUST_OVER_PLAIN)
    report.ratio("over transformers' assisted", OURS, THEIRS, MUST_OVER_ASSISTED)


def run(lab: Lab, shape: str) -> Report:
    """Measure and report."""
    pair, options = lab.pair(shape), lab.options
    new, k = options.num_new_tokens, pair.k
    prompts = ragged_prompts(options.repeats + 1, NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS, pair.native.config.vocab_size)
    report = lab.report(f"gpu_assisted_{shape}", f"{shape} NF4, one stream, k = {k}, {new} new tokens", pair)
    target, draft = pair.target, pair.draft
    native.fix_draft_length(pair.native_draft, k)
    account, first = Drafted(), Drafted()
    run_assisted(target, draft, prompts[0], new, k, first)
    plain = run_plain(target, prompts[:1], new)[0]
    report.notes.append(f"ids equal to plain ones from the first on: {num_equal(first.ids[0], plain)} of {new}")
    measure(
        report,
        cycling(prompts, lambda prompt: run_assisted(target, draft, prompt, new, k, account)),
        cycling(prompts, lambda prompt: len(run_plain(target, [prompt], new)[0])),
        cycling(
            prompts,
            lambda prompt: len(native.generate(pair.native, prompt, new, assistant_model=pair.native_draft)),
        ),
        options.repeats,
    )
    report.bars.append(Bar("acceptance", account.acceptance, None))
    report.bars.append(Bar("tokens a check", account.tokens_per_check, None))
    return report
