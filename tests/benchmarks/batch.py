"""A batch of 2,000 ragged requests as a Ray job, against the engine called in-process and transformers' batching.

One thread an engine for every contender: what feeds the engine has a core of its own, as it has beside a GPU.
"""

import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import torch
import yaml
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

from actors.config import WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.engine import Engine
from actors.engine.loading import load_model
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from cluster.batch.feeder import Feeder
from cluster.batch.pipeline import IN_FLIGHT_PER_SEQUENCE, block_rows
from cluster.batch.plan import in_order, read_plan
from cluster.config import ClusterConfig, PoolConfig
from cluster.demo.synthetic import SyntheticConfig, synthetic_pair
from cluster.session import Cluster
from serve_app.offline import open_answerer
from tests.batch_files import write_lines
from tests.benchmarks.measure import Report, interleave, timed
from tests.ray_head import ROOT, RayHead

NUM_REQUESTS = 2000
PROMPT_LENGTHS = (8, 192)
NEW_TOKENS = (8, 40)
VOCAB = 2048  # ids that the embedded pair's tokenizer knows, which is borrowed
SAMPLE_STEP = 4  # generate_batch gets every fourth request: it takes its time, and what it does once is done before
NUM_THREADS = 1
MODEL = SyntheticConfig(hidden=512, layers=8, intermediate=1408, heads=8, kv_heads=4, vocab=16384)
JOB_TIMEOUT = 7200.0

_numbers = itertools.count()


@cache
def requests() -> list[tuple[list[int], int]]:
    """Prompts as ids, each with the number of tokens to generate."""
    source = random.Random(0)
    return [
        ([source.randrange(VOCAB) for _ in range(source.randint(*PROMPT_LENGTHS))], source.randint(*NEW_TOKENS))
        for _ in range(NUM_REQUESTS)
    ]


def config() -> ClusterConfig:
    """One target, no draft: with this many streams at once a draft would only take cores."""
    model = ModelConfig(
        model=str(synthetic_pair(MODEL).target_path),
        tokenizer="demo",
        quantization="nf4",
        dtype="bfloat16",
        compute_dtype="bfloat16",
    )
    engine = EngineConfig(
        num_blocks=1024, max_num_seqs=64, max_num_waiting=NUM_REQUESTS, prefix_cache=False, num_threads=NUM_THREADS
    )
    return ClusterConfig(
        name="synthetic", target=PoolConfig(worker=WorkerConfig(model=model, engine=engine, num_threads=NUM_THREADS))
    )


def run(repeats: int) -> Report:
    """Measure and report tokens a second, prefill included, from a ready model to the last result."""
    torch.set_num_threads(NUM_THREADS)
    worker = config().target.worker
    engine = Engine(load_model(worker.model, worker.engine), worker.engine)
    model: Any = AutoModelForCausalLM.from_pretrained(
        synthetic_pair(MODEL).target_path,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    ).eval()
    generate_batch(model, step=NUM_REQUESTS // 4)
    num_tokens = sum(count for _, count in requests())
    report = Report(
        name="batch",
        what="40M synthetic target in NF4, 2,000 requests, prompts of 8 to 192 ids, 8 to 40 new, tokens/s with prefill",
        settings={
            "num_requests": NUM_REQUESTS,
            "num_prompt_tokens": sum(len(prompt) for prompt, _ in requests()),
            "num_new_tokens": num_tokens,
            "threads_per_engine": NUM_THREADS,
            "max_num_seqs": worker.engine.max_num_seqs,
            "generate_batch_gets": f"every {SAMPLE_STEP}th request, the mean number of new tokens for each",
        },
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder)
        jobs: list[dict[str, Any]] = []

        def job() -> float:
            jobs.append(run_job(folder))
            return float(jobs[-1]["tokens_per_second"])

        report.samples = interleave(
            {
                "engine in-process": timed(lambda: in_process(engine)),
                "ray job": job,
                "asyncio driver": lambda: asyncio_driver(folder),
                "generate_batch": timed(lambda: generate_batch(model)),
            },
            unit="tok/s",
            repeats=min(repeats, 3),
            warm_ups=0,
        )
    report.settings["jobs"] = jobs
    report.ratio("over engine in-process", "ray job", "engine in-process", 0.85)
    report.ratio("over generate_batch", "ray job", "generate_batch", 3.0)
    report.ratio("Ray Data over an asyncio driver", "ray job", "asyncio driver", None)
    return report


def write_input(folder: Path) -> None:
    """The requests and the cluster, as files."""
    bodies = [
        {"model": "synthetic", "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True}
        for prompt, count in requests()
    ]
    write_lines(
        folder / "requests.jsonl",
        (
            {"custom_id": f"r{index}", "method": "POST", "url": "/v1/completions", "body": body}
            for index, body in enumerate(bodies)
        ),
    )
    (folder / "cluster.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(config())))


def in_process(engine: Engine) -> int:
    """All requests at once on an engine in this process."""
    for prompt, count in requests():
        params = GenerationParams(max_new_tokens=count, ignore_eos=True)
        engine.add(Request(request_id=f"r{next(_numbers)}", prompt_token_ids=tuple(prompt), params=params))
    num_tokens = 0
    while engine.has_work():
        num_tokens += sum(len(delta.token_ids) for delta in engine.step())
    return num_tokens


def run_job(folder: Path) -> dict[str, Any]:
    """``ray job submit`` on a Ray that was started for it; the job's own report."""
    number = next(_numbers)
    output, report = folder / f"results-{number}.jsonl", folder / f"report-{number}.json"
    entrypoint = ["python", "-m", "cluster.batch", "--config", str(folder / "cluster.yaml")]
    entrypoint += ["--input", str(folder / "requests.jsonl"), "--output", str(output), "--report", str(report)]
    with RayHead(num_cpus=2) as head:
        job_id = head.submit(entrypoint, working_dir=ROOT)
        status = head.wait(job_id, JOB_TIMEOUT)
        assert status == "SUCCEEDED", head.job_log(job_id)[-4000:]
    found: dict[str, Any] = json.loads(report.read_text())
    assert output.read_bytes().count(b"\n") == NUM_REQUESTS
    assert found["num_failed"] == 0
    assert found["num_completion_tokens"] == sum(count for _, count in requests())
    del found["output"]
    return found


def asyncio_driver(folder: Path) -> float:
    """The same feeder without Ray Data, on this process' own event loop: tokens a second."""
    plan = read_plan(folder / "requests.jsonl")
    engine = config().target.worker.engine
    max_in_flight = IN_FLIGHT_PER_SEQUENCE * engine.max_num_seqs
    lines = plan.read(in_order(list(plan.entries)))
    num_rows = block_rows(max_in_flight)
    blocks = [pa.table({"line": lines[start : start + num_rows]}) for start in range(0, len(lines), num_rows)]

    async def feed() -> int:
        feeder = Feeder(open_answerer, msgspec.json.encode(config()), 0, max_in_flight)
        tables = await asyncio.gather(*map(feeder, blocks))
        return sum(sum(table["num_completion_tokens"].to_pylist()) for table in tables)

    with Cluster.start(config()):
        started = time.perf_counter()
        return asyncio.run(feed()) / (time.perf_counter() - started)


def generate_batch(model: Any, step: int = SAMPLE_STEP) -> int:
    """Every ``step``-th of the requests through transformers' continuous batching."""
    some = requests()[::step]
    new = round(statistics.mean(count for _, count in some))
    setting = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=-1)
    inputs = [prompt for prompt, _ in some]
    out = model.generate_batch(inputs=inputs, generation_config=setting, max_new_tokens=new, warmup=False)
    num_tokens = sum(len(result.generated_tokens) for result in out.values())
    assert num_tokens == len(some) * new
    return num_tokens
