"""transformers' own ``generate`` on an engine's model, one forward at a time and in turns with the engine.

What the engine does not batch (beams, guidance, encoder-decoders, tensors as output, callables of the caller's) runs
here. Each call is a greenlet on the engine's thread: it runs up to the model's next forward and hands the turn back
there. So no two of them compute at once, no lock is held, and OpenMP keeps one pool of threads.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from greenlet import getcurrent, greenlet
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer

from actors.engine.declared_call import DeclaredCall, PlainOutput
from actors.engine.declared_generation import DeclaredGeneration, failure, plain_output
from actors.engine.errors import GenerationError
from actors.engine.native_forward import forward
from actors.engine.params import NamedProcessor
from actors.engine.processor_registry import ProcessorRegistry


@dataclass(frozen=True, kw_only=True)
class NativeCall:
    """One call of ``generate``, or of the model itself, as its caller wrote it.

    Attributes:
        arguments: of the method, without ``streamer``. May hold tensors, callables and models.
        defaults: the model's generation defaults as the caller has them; None keeps the loaded ones.
        seed: of torch's generators for the length of the call; None leaves them as they are.
        is_streamed: whether new tokens are reported as they come.
        logits_processors, stopping_criteria: those that the target's registry makes by their names.
        method: ``generate``, or ``forward`` for the model's own output.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    defaults: GenerationConfig | None = None
    seed: int | None = None
    is_streamed: bool = False
    method: Literal["generate", "forward"] = "generate"
    logits_processors: tuple[NamedProcessor, ...] = ()
    stopping_criteria: tuple[NamedProcessor, ...] = ()

    @property
    def wants_attentions(self) -> bool:
        """Whether the model has to keep its attentions."""
        return bool(wish(self.arguments, self.defaults, "output_attentions"))


class Events(Protocol):
    """Where a run reports to. Called on the engine's thread; must not block."""

    def put(self, token_ids: torch.Tensor | tuple[int, ...]) -> None:
        """Take what a streamer gets: the prompts, then one token a row; of a declared call as numbers."""

    def finish(self, output: Any) -> None:
        """Take the result, its tensors on the CPU."""

    def fail(self, error: Exception) -> None:
        """Take the error that ended the run, its remote traceback among its notes."""


class _Cancelled(BaseException):
    """Thrown into a run that its caller has given up."""


class _Reporter(BaseStreamer):
    def __init__(self, events: Events) -> None:
        self._events = events

    def put(self, value: torch.Tensor) -> None:
        self._events.put(value.detach().cpu().clone())

    def end(self) -> None:
        """The result says so itself."""


class _PlainReporter(_Reporter):
    """Reports the ids of one sequence as numbers."""

    def put(self, value: torch.Tensor) -> None:
        self._events.put(tuple(value.flatten().tolist()))


class NativeRun:
    """One call under way. Made by :meth:`NativeModel.start`.

    Attributes:
        call: what is asked.
        depths: layers of the model's parts, as the run had them at the end of its last turn.
        is_cancelled: whether it ends at its next turn.
    """

    def __init__(self, model: NativeModel, call: NativeCall | DeclaredCall, events: Events) -> None:
        self._model = model
        self.call = call
        self._events = events
        self._greenlet = greenlet(self._run)
        self._random_states: list[torch.Tensor] | None = None
        self.depths: list[int | None] | None = None
        self.is_cancelled = False

    def advance(self) -> bool:
        """Run up to the next forward, or to the end. Returns whether there is more to do."""
        with self._model.turn(self), torch.no_grad():
            outside = _random_states()
            try:
                if self._random_states is not None:
                    _set_random_states(self._random_states)
                elif self.call.seed is not None:
                    torch.manual_seed(self.call.seed)
                if self.is_cancelled:
                    self._greenlet.throw(_Cancelled())
                else:
                    self._greenlet.switch()
                self._random_states = _random_states()
            finally:
                _set_random_states(outside)
        return not self._greenlet.dead

    def is_running_here(self) -> bool:
        """Whether the code that asks was called by this run."""
        return getcurrent() is self._greenlet

    def hand_over(self) -> None:
        """Give the turn back; returns when :meth:`advance` is called again."""
        home = self._greenlet.parent
        assert home is not None, "a greenlet that runs has a parent"
        home.switch()

    def _run(self) -> None:
        try:
            output = self._model.generate(self.call, self._events)
        except _Cancelled:
            return
        except BaseException as error:
            self._events.fail(_with_traceback(error))
        else:
            self._events.finish(output)


class NativeModel:
    """An engine's model as transformers knows it.

    Args:
        model: shared with the engine, which may have put its own attention on it.
        attention: transformers' implementation for these runs; ``eager`` where attentions are asked for.
        tokenizer: the model's, for declared calls.
        registry: processors that calls may name.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        attention: str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        registry: ProcessorRegistry | None = None,
    ) -> None:
        self._model = model
        self._attention = attention
        self._run: NativeRun | None = None
        self._registry = registry or ProcessorRegistry()
        self._declared = DeclaredGeneration(model, tokenizer, self._registry)
        configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
        self._configs: list[Any] = list(configs.values())
        model.register_forward_pre_hook(self._before_forward)

    def start(self, call: NativeCall | DeclaredCall, events: Events) -> NativeRun:
        """Begin a call; nothing is computed before the first :meth:`NativeRun.advance`."""
        return NativeRun(self, call, events)

    def step(self, run: NativeRun) -> bool:
        """Advance ``run`` by a forward. Returns whether there is more to do."""
        self._run = run
        try:
            return run.advance()
        finally:
            self._run = None

    def generate(self, call: NativeCall | DeclaredCall, events: Events) -> Any:
        """The call itself, on the run's own stack. Raises whatever transformers raises."""
        if isinstance(call, DeclaredCall):
            return self._generate_declared(call, events)
        model: Any = self._model
        if call.defaults is not None:
            model.generation_config = call.defaults
        arguments = {name: to_device(value, model.device) for name, value in call.arguments.items()}
        if call.method == "forward":
            return to_cpu(forward(model, arguments))
        if isinstance(assistant := arguments.get("assistant_model"), PreTrainedModel):
            assistant.eval()
        if call.logits_processors:
            arguments["logits_processor"] = self._registry.logits_processors(call.logits_processors)
        if call.stopping_criteria:
            arguments["stopping_criteria"] = self._registry.stopping_criteria(call.stopping_criteria)
        streamer = _Reporter(events) if call.is_streamed else None
        return to_cpu(model.generate(**arguments, streamer=streamer))

    def _generate_declared(self, call: DeclaredCall, events: Events) -> PlainOutput:
        """Raises SlipstreamErrors only, which any caller can read."""
        try:
            arguments = to_device(self._declared.arguments(call), self._model.device)
            streamer = _PlainReporter(events) if call.is_streamed else None
            generate: Any = self._model.generate
            return plain_output(generate(**arguments, streamer=streamer))
        except Exception as error:
            raise failure(error, call) from error

    def turn(self, run: NativeRun) -> _Lent:
        """A context in which the model is the run's."""
        return _Lent(self._configs, "eager" if run.call.wants_attentions else self._attention, run)

    def _before_forward(self, module: torch.nn.Module, args: Any) -> None:
        if self._run is not None and self._run.is_running_here():
            self._run.hand_over()


class _Lent:
    """Lends a model's configurations to a run for a turn, and puts them back as the engine has them.

    A run has transformers' attention. With early exit it also sets the model's depth while it drafts, and may be
    stopped, or given up, before it has set it back.
    """

    def __init__(self, configs: list[Any], attention: str, run: NativeRun) -> None:
        self._configs = configs
        self._attention = attention
        self._run = run
        self._before: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._before = [(config._attn_implementation_internal, _depth(config)) for config in self._configs]
        for config, depth in zip(self._configs, self._run.depths or [at for _, at in self._before], strict=True):
            config._attn_implementation_internal = self._attention
            _set_depth(config, depth)

    def __exit__(self, *error: object) -> None:
        self._run.depths = [_depth(config) for config in self._configs]
        for config, (attention, depth) in zip(self._configs, self._before, strict=True):
            config._attn_implementation_internal = attention
            _set_depth(config, depth)


def _depth(config: Any) -> int | None:
    return getattr(config, "num_hidden_layers", None)


def _set_depth(config: Any, depth: int | None) -> None:
    if _depth(config) != depth:
        config.num_hidden_layers = depth


def to_cpu(value: Any) -> Any:
    """Return ``value`` with every tensor in it on the CPU; see :func:`to_device`."""
    return to_device(value, torch.device("cpu"))


def to_device(value: Any, device: torch.device) -> Any:
    """Return ``value`` with every tensor in it on ``device``: tensors, caches, and what nests them.

    Caches and dictionaries are changed in place; callables, models and configurations stay as they are.
    """
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Cache):
        return _moved_cache(value, device)
    if isinstance(value, dict):  # ModelOutput is one, and assigns its attributes with its items
        for key in list(value):
            value[key] = to_device(value[key], device)
        return value
    if type(value) in (tuple, list):
        return type(value)(to_device(item, device) for item in value)
    return value


def _moved_cache(cache: Any, device: torch.device) -> Any:
    parts = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    for part in (part for part in parts if part is not None):
        _moved_cache(part, device)
    for layer in getattr(cache, "layers", ()):
        for name, value in vars(layer).items():
            if isinstance(value, torch.Tensor):
                setattr(layer, name, value.to(device))
    return cache


def wish(arguments: Mapping[str, Any], defaults: GenerationConfig | None, name: str) -> Any:
    """What a call of ``generate`` asks for under a name of ``GenerationConfig``'s: its own word, or the defaults'."""
    configs = [arguments.get("generation_config"), defaults]
    said = [arguments.get(name), *(getattr(config, name, None) for config in configs)]
    return next((value for value in said if value is not None), None)


def _with_traceback(error: BaseException) -> Exception:
    """The error as the caller may get it: an Exception, with what happened here among its notes."""
    if not isinstance(error, Exception):
        error = GenerationError(f"{type(error).__name__}: {error}")
    error.add_note("In the target actor:\n" + "".join(traceback.format_exception(error)))
    return error


def _random_states() -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return states + torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else states


def _set_random_states(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
