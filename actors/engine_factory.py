"""How an actor comes by its engine. Real ones are loaded inside the actor's process; tests pass fakes."""

from typing import Protocol

import msgspec

from actors.config import WorkerConfig
from actors.engine.protocol import TokenEngine
from actors.simulated_engine import simulate
from actors.status import WorkerInfo


class EngineFactory(Protocol):
    """Builds the engine of one worker. It travels to the actor's process, so it must be picklable."""

    def __call__(self, info: WorkerInfo, config: WorkerConfig) -> tuple[TokenEngine, WorkerInfo]:
        """Return the engine and ``info`` with what is known now. Raises the ConfigError tree."""


def load_engine(info: WorkerInfo, config: WorkerConfig) -> tuple[TokenEngine, WorkerInfo]:
    """Load the model of a worker and build its engine. torch is imported here, in the actor's process, and not before.

    Where the configuration asks for a simulation, that is built instead. Raises the ConfigError tree.
    """
    if config.simulation is not None:
        return simulate(info, config, config.simulation)
    from actors.engine.encoder_decoder import EncoderDecoderEngine
    from actors.engine.engine import Engine
    from actors.engine.loading import load_model
    from actors.engine.processor_registry import ProcessorRegistry

    engine_config = msgspec.structs.replace(config.engine, num_threads=config.num_threads)
    registry = ProcessorRegistry.load(config.processors)  # what cannot be imported is told before memory is taken
    loaded = load_model(config.model, engine_config)
    is_causal = not getattr(loaded.model.config, "is_encoder_decoder", False)
    engine_class = Engine if is_causal else EncoderDecoderEngine
    engine = engine_class(loaded, engine_config, registry=registry)
    devices = dict.fromkeys(str(device) for device in loaded.layer_devices.values())
    return engine, msgspec.structs.replace(
        info,
        quantization=config.model.quantization,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        devices=tuple(devices),
        num_blocks=engine.stats().num_blocks,
        block_size=engine_config.block_size,
        max_model_len=engine.max_model_len,
        vocab_size=engine.vocab_size,
        is_encoder_decoder=not is_causal,
        notes=loaded.notes,
    )
