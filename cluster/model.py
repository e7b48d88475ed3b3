"""The cluster behind the face of a transformers model: ``generate`` with its signature and its results."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from actors.engine.config import EngineConfig
from actors.engine.errors import RequestError
from actors.engine.native_generation import NativeCall
from actors.status import ClusterStats
from cluster.background import BackgroundLoop, awaited
from cluster.batched import cache_call, engine_output, run_rows
from cluster.calls import GenerateCall, prepare_call
from cluster.config import ClusterConfig
from cluster.configure import configure
from cluster.face import ModelFace
from cluster.generation import NativeModeError
from cluster.generation_client import ModelClient, RunningCluster, connect_router
from cluster.native import device_of, find_assistant, forward_call, native_call, run_call
from cluster.outputs import ClusterGenerateOutput
from cluster.refusals import judged
from cluster.searches import Generated, run_searches
from cluster.streaming import Streamer

logger = logging.getLogger(__name__)


class ClusterModel(ModelFace):
    """A target model and its draft on a cluster of actors, used like a model of transformers.

    >>> with ClusterModel.from_pretrained("demo") as model:
    ...     ids = model.tokenizer("It was a dark night", return_tensors="pt").input_ids
    ...     out = model.generate(ids, max_new_tokens=64)

    Safe to use from several threads at once; calls run side by side on the cluster.
    """

    def __init__(
        self,
        config: ClusterConfig,
        connect: Callable[[], Awaitable[ModelClient]],
        cluster: RunningCluster | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Take a running cluster.

        Args:
            config: what the cluster was started with.
            connect: makes the client; awaited on this object's own event loop.
            cluster: shut down by :meth:`close`.
            name: which of its models this is, a draft's name; None is the target. Raises ConfigError for others.
        """
        super().__init__(config, name)
        self._connect = connect
        self._cluster = cluster
        self._loop = BackgroundLoop("slipstream-client")
        try:
            self._client: ModelClient | None = self._loop.call(awaited(connect()))
        except BaseException:
            self._loop.close()
            raise

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        assistant_model: str | Path | None = None,
        *,
        quantization: str | None = None,
        assistant_quantization: str | None = None,
        quantization_config: Any = None,
        assistant_quantization_config: Any = None,
        revision: str | None = None,
        assistant_revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device_map: str | Mapping[str, Any] = "auto",
        assistant_device_map: str | Mapping[str, Any] = "auto",
        max_memory: Mapping[int | str, int | str] | None = None,
        target_replicas: int = 1,
        draft_replicas: int | None = None,
        num_gpus: float | None = None,
        assistant_num_gpus: float | None = None,
        num_threads: int | None = None,
        num_assistant_tokens: int | None = None,
        engine: EngineConfig | None = None,
    ) -> Self:
        """Start a cluster for a model, on the Ray that runs or on a local one, and wait until it is ready.

        Args:
            model: a path, a hub id, or ``demo`` (the embedded pair).
            assistant_model: the draft; ``demo`` brings its own. Without one the target decodes alone.
            quantization: ``none``, ``nf4``, ``fp4`` or ``int8``; None is the checkpoint as it is, ``demo`` as NF4.
            assistant_quantization: the same for the draft.
            quantization_config: a ``transformers.BitsAndBytesConfig`` in place of ``quantization``.
            assistant_quantization_config: the same for the draft.
            revision: branch, tag or commit of a hub id.
            assistant_revision: the same for the draft.
            dtype: of what is not quantized, for both models; ``auto`` is the checkpoint's.
            device_map: a strategy of accelerate, a device, or module names to devices, for each target.
            assistant_device_map: the same for each draft.
            max_memory: device to bytes for a target.
            target_replicas: targets; each has its own copy of the model.
            draft_replicas: drafts; 0 leaves the draft out.
            num_gpus: GPUs of one target; None shares the visible ones out.
            assistant_num_gpus: GPUs of one draft.
            num_threads: CPU threads of each actor; None shares the cores out.
            num_assistant_tokens: draft length for all requests; None lets the cluster adapt it.
            engine: bounds of each engine.

        Raises:
            ConfigError: a value that cannot work, a model that is not there, or one that does not fit.
        """
        return cls.from_config(
            configure(
                str(model),
                assistant_model=None if assistant_model is None else str(assistant_model),
                quantization=quantization,
                assistant_quantization=assistant_quantization,
                quantization_config=quantization_config,
                assistant_quantization_config=assistant_quantization_config,
                revision=revision,
                assistant_revision=assistant_revision,
                dtype=dtype,
                device_map=device_map,
                assistant_device_map=assistant_device_map,
                max_memory=max_memory,
                target_replicas=target_replicas,
                draft_replicas=draft_replicas,
                num_gpus=num_gpus,
                assistant_num_gpus=assistant_num_gpus,
                num_threads=num_threads,
                num_assistant_tokens=num_assistant_tokens,
                engine=engine,
            )
        )

    @classmethod
    def from_config(cls, config: ClusterConfig | Mapping[str, Any] | str | Path) -> Self:
        """Start a cluster from its configuration: an object, plain data, or the path of a YAML or JSON file."""
        from cluster.session import Cluster

        if isinstance(config, str | Path):
            config = ClusterConfig.from_file(config)
        elif isinstance(config, Mapping):
            config = ClusterConfig.from_dict(config)
        cluster = Cluster.start(config)
        try:
            return cls(cluster.config, connect_router, cluster)
        except BaseException:
            cluster.shutdown()
            raise

    @classmethod
    def connect(cls, name: str | None = None) -> Self:
        """Use a cluster that runs already, or the draft ``name`` of it; :meth:`close` leaves it running."""
        from cluster.session import Cluster

        cluster = Cluster.connect()
        try:
            return cls(cluster.config, connect_router, cluster, name=name)
        except BaseException:
            cluster.shutdown()
            raise

    def draft(self, name: str) -> Self:
        """A draft of this cluster as a model of its own, to be closed by itself. Raises ConfigError for other names."""
        return type(self)(self.cluster_config, self._connect, name=name)

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Any = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: Streamer | None = None,
        negative_prompt_ids: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        custom_generate: Any = None,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Generated:
        """Generate behind a batch of prompts, as ``transformers.GenerationMixin.generate`` does.

        Greedy search, sampling and beams run in the engine: batched with everyone else's, and carried on or begun again
        elsewhere when an actor dies. Every other mode (guidance, encoder-decoders, tensors as output, callables, ...)
        is run by transformers' own code in a target actor, in turns with the engine. There sampling draws from torch's
        generator under ``seed``, as ``torch.manual_seed(seed)`` before ``model.generate`` would have it.

        Args:
            inputs: token ids (rows, width), long; also as ``input_ids=``. None starts from the bos token.
            generation_config: base of this call; keyword arguments lie over it, the model's defaults under it.
            logits_processor: a ``LogitsProcessorList``; sent to the actor, like all callables below. Or names from
                ``processors`` of the cluster's configuration, or mappings of ``name`` and ``args``: those are drafted.
            stopping_criteria: a ``StoppingCriteriaList``, or names as above.
            prefix_allowed_tokens_fn: from (batch_id, ids) to the ids that may come next.
            synced_gpus: has no meaning here, where no ranks run in step.
            assistant_model: a draft of the cluster, or the name of its pool, "none" to decode plainly; with None, or
                this cluster, its default draft runs ahead. A ``PreTrainedModel`` is sent to the target, once, and
                assists there.
            streamer: gets the prompts, then each new token, then the end; on the caller's side.
            negative_prompt_ids: for ``guidance_scale``.
            negative_prompt_attention_mask: for ``guidance_scale``.
            custom_generate: a decoding loop, run in the actor; or a local folder with one, which the actor has to see.
            seed: fixes all randomness of a sampled call, whatever else runs; row i of the result draws from
                ``sequence_seed(seed, i)``. None draws one from torch's default generator.
            kwargs: ``attention_mask`` (rows, width), fields of ``GenerationConfig``, what the model's forward takes,
                and of the cluster's own: ``presence_penalty``, ``frequency_penalty``, ``logit_bias``, ``ignore_eos``.

        Returns:
            Prompts and new tokens, (rows * num_return_sequences, width + longest) long, ended rows padded; with
            ``return_dict_in_generate`` transformers' output class, which also has the call's ``seed`` and in ``stats``
            what drafting did for each row. Its large fields are fetched when they are read.

        Raises:
            RequestError: an argument that is refused; names the field. A ValueError, and of the class that transformers
                raises of the same call.
            GenerationError: a sequence failed while it ran.
            Exception: whatever a callable or transformers' own code raised.
        """
        client = self._connected()
        given = kwargs if inputs is None else {"inputs": inputs, **kwargs}
        tokenizer = kwargs.get("tokenizer")
        if isinstance(assistant_model, ClusterModel) and assistant_model is not self:
            assistant_model = assistant_model.name
        assistant = find_assistant(assistant_model, self, self.cluster_config)
        drafting = {"assistant_model": assistant} if isinstance(assistant, str) else {}
        mode = {
            "logits_processor": logits_processor or None,
            "stopping_criteria": stopping_criteria or None,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            "assistant_model": None if drafting else assistant,
            "negative_prompt_ids": negative_prompt_ids,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
            "custom_generate": custom_generate,
        }

        def natively() -> torch.Tensor | ClusterGenerateOutput:
            whole = native_call(
                {**given, **mode, "generation_config": generation_config, "synced_gpus": synced_gpus},
                defaults=self.generation_config,
                vocab_size=self.vocab_size,
                seed=seed,
                is_streamed=streamer is not None,
            )
            output: torch.Tensor | ClusterGenerateOutput = self._run_native(client, whole, streamer)
            return output

        try:
            call: GenerateCall | None = prepare_call(
                inputs,
                generation_config,
                defaults=self.generation_config,
                vocab_size=self.vocab_size,
                device=self.device,
                seed=seed,
                native=mode
                | {
                    "encoder": self.config.is_encoder_decoder or None,
                    "tokenizer": None if tokenizer is None or self.has_tokenizer else tokenizer,
                },
                is_streamed=streamer is not None,
                kwargs=kwargs | drafting,
            )
        except NativeModeError as reason:
            logger.debug("transformers' own generate runs this call: %s", reason)
            call = None
        except RequestError as refusal:
            return judged(refusal, kwargs, natively)
        if call is None:
            return natively()
        if call.params.has_beams:
            return run_searches(self._loop, client, call, self.name, self.cluster_config.router.max_num_requests)
        return self._run_batched(client, call, streamer)

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Run the target's own forward, without gradients; calling this object does the same.

        Args:
            input_ids: token ids (rows, width), long.
            kwargs: what the model's forward takes, such as ``attention_mask``, ``labels``, ``past_key_values``.

        Returns:
            transformers' output, its fields fetched when they are read: ``logits`` (rows, width, vocab) in the model's
            dtype. Where they are many they are computed in pieces, so that a target holds few at a time.

        Raises:
            TokenIdError: an id that the model does not know.
            Exception: whatever the model raised.
        """
        given = {"input_ids": input_ids, **kwargs}
        return self._run_native(self._connected(), forward_call(given, vocab_size=self.vocab_size))

    __call__ = forward

    def stats(self) -> ClusterStats:
        """Workers, what is in flight, and totals since the router started."""
        return self._loop.call(self._connected().stats())

    def close(self) -> None:
        """Take back what runs, leave the cluster, and stop it if this object started it. Twice is harmless."""
        client, self._client = self._client, None
        try:
            if client is not None:
                self._loop.call(client.close())
        finally:
            self._loop.close()
            cluster, self._cluster = self._cluster, None
            if cluster is not None:
                cluster.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_batched(self, client: ModelClient, call: GenerateCall, streamer: Streamer | None) -> Generated:
        """Run the rows of a call side by side in the engine."""
        most = self.cluster_config.router.max_num_requests
        rows = run_rows(self._loop, client, call, self.name, most, streamer=streamer)
        return engine_output(rows, call, lambda: self._run_native(self._connected(), cache_call(rows.sequences, call)))

    def _run_native(self, client: ModelClient, call: NativeCall, streamer: Streamer | None = None) -> Any:
        """Run a call by transformers' own code; its result lies where its tensors lie."""
        where = device_of(call.arguments, self.device)
        return run_call(self._loop, client, call, self.name, streamer=streamer, device=where)

    def _connected(self) -> ModelClient:
        if self._client is None:
            raise RuntimeError("this ClusterModel is closed")
        return self._client


# By this transformers knows the class: its pipelines complain of models that they have never heard of.
AutoModelForCausalLM.register(ClusterConfig, ClusterModel, exist_ok=True)
