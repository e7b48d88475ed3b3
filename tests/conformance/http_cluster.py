"""A cluster of one engine behind the door, in this process, beside the same weights in transformers' hands."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from tempfile import mkdtemp
from typing import Any

from litestar import Litestar
from litestar.testing import AsyncTestClient
from transformers import PreTrainedTokenizerFast

from actors.engine.encoder_decoder import EncoderDecoderEngine
from actors.engine.engine import Engine
from actors.engine.loading import load_model
from actors.engine.processor_registry import ProcessorRegistry
from cluster.config import LimitsConfig
from serve_app.gateway import Gateway
from serve_app.tokenizer import adapt
from serve_app.web import build_web_app
from tests.actors.engine.tiny_models import ENCODER_DECODERS, tiny_tokenizer
from tests.conformance.engine_client import EngineClient
from tests.conformance.generate_matrix import ENGINE, config_of
from tests.operator_processors import PATHS

MODEL = "tiny"
LIMITS = LimitsConfig(max_num_beams=8, max_output_bytes=8 * 2**20)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Of every tiny model here."""
    return tiny_tokenizer(mkdtemp())


@dataclass(frozen=True)
class HttpCluster:
    """What is behind the door, and what it is held against."""

    reference: Any
    engine: Engine | EncoderDecoderEngine
    is_encoder_decoder: bool

    @asynccontextmanager
    async def serving(self, limits: LimitsConfig = LIMITS) -> AsyncIterator[AsyncTestClient[Litestar]]:
        """A client of the application in front of the engine."""

        async def connect() -> Gateway:
            defaults = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
            client = EngineClient(self.engine, MODEL)
            return Gateway(client, adapt(tokenizer()), name=MODEL, limits=limits, defaults=defaults)

        async with AsyncTestClient(build_web_app(connect, limits)) as http:
            yield http


@contextmanager
def http_cluster(model: str, layout: str = "fp32") -> Iterator[HttpCluster]:
    """Load a tiny model twice."""
    config = config_of(model, layout)
    reference = load_model(config, ENGINE).model
    loaded = replace(load_model(config, ENGINE), tokenizer=tokenizer())
    engine_class = EncoderDecoderEngine if model in ENCODER_DECODERS else Engine
    engine = engine_class(loaded, ENGINE, registry=ProcessorRegistry.load(PATHS))
    yield HttpCluster(reference, engine, model in ENCODER_DECODERS)
