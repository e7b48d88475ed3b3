"""What transformers' text-generation guides show, a function an example: all but the model's construction is theirs.

The guides are those on generation strategies and features, caches, assisted decoding, chats, and the reference of
generate's utilities. Examples that need a download or another package are listed with the reason.
"""

import asyncio
import copy
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AsyncTextIteratorStreamer,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
    TextStreamer,
    WatermarkDetector,
    WatermarkingConfig,
    pipeline,
    set_seed,
)

from cluster.demo import DRAFT_PATH

LEFT_OUT = {
    "custom_generate from the hub": "a download, and code from the hub is never run",
    "contrastive search, DoLa, group beam search, constrained beams": "transformers fetches these from the hub",
    "quantized cache": "needs optimum-quanto or hqq",
    "offloaded cache": "needs a GPU",
    "encoder-decoder cache of Whisper": "speech, not text",
    "torch.compile": "compiles a model in this process",
}

NIGHT = "It was a dark night"
CODE = """
import torch


def generate(model, input_ids, generation_config=None, left_padding=None, **kwargs):
    generation_config = generation_config or model.generation_config
    pad = generation_config.pad_token_id or 0
    if left_padding:
        input_ids = torch.nn.functional.pad(input_ids, (left_padding, 0), value=pad)
    for _ in range(kwargs.get("max_new_tokens") or 4):
        input_ids = torch.cat([input_ids, model(input_ids).logits[:, -1:].argmax(-1)], dim=1)
    return input_ids
"""


def texts(tokenizer: Any, ids: Any) -> list[str]:
    found: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


def greedy_search(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(NIGHT, return_tensors="pt").to(model.device)
    return texts(tokenizer, model.generate(**inputs, max_new_tokens=20))


def sampling(model: Any, tokenizer: Any) -> Any:
    """Draws differ from transformers', as the engine has its own noise; the same seed gives the same text."""
    inputs = tokenizer(NIGHT, return_tensors="pt").to(model.device)
    runs = []
    for seed in (42, 42, 43):
        set_seed(seed)
        runs.append(texts(tokenizer, model.generate(**inputs, max_new_tokens=20, do_sample=True, num_beams=1)))
    return runs[0] == runs[1] != runs[2]


def beam_search(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(NIGHT, return_tensors="pt").to(model.device)
    return texts(tokenizer, model.generate(**inputs, max_new_tokens=20, num_beams=2))


def several_beams(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(NIGHT, return_tensors="pt")
    return texts(tokenizer, model.generate(**inputs, num_beams=5, num_return_sequences=3, max_new_tokens=9))


def custom_generate_folder(model: Any, tokenizer: Any, folder: Path) -> Any:
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(CODE)
    inputs = tokenizer([NIGHT], return_tensors="pt").to(model.device)
    output = model.generate(**inputs, custom_generate=str(folder), trust_remote_code=True, left_padding=2)
    return output.tolist()


def custom_generate_callable(model: Any, tokenizer: Any) -> Any:
    def loop(
        model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **kwargs: Any
    ) -> Any:
        is_done = False
        while not is_done:
            scores = logits_processor(input_ids, model(input_ids).logits[:, -1].float())
            input_ids = torch.cat([input_ids, scores.argmax(-1, keepdim=True)], dim=-1)
            is_done = bool(stopping_criteria(input_ids, None).all())
        return input_ids

    inputs = tokenizer([NIGHT], return_tensors="pt").to(model.device)
    return texts(tokenizer, model.generate(**inputs, custom_generate=loop, max_new_tokens=10, repetition_penalty=1.2))


def batch_of_two(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer([NIGHT, "She"], return_tensors="pt", padding=True).to(model.device)
    return texts(tokenizer, model.generate(**inputs, max_new_tokens=20))


def saved_generation_config(model: Any, tokenizer: Any, folder: Path) -> Any:
    config = GenerationConfig(max_new_tokens=12, num_beams=3, early_stopping=True, pad_token_id=0)
    config.save_pretrained(folder, "search.json")
    loaded = GenerationConfig.from_pretrained(folder, "search.json")
    inputs = tokenizer(NIGHT, return_tensors="pt")
    return texts(tokenizer, model.generate(**inputs, generation_config=loaded))


def default_generation_config(model: Any, tokenizer: Any) -> Any:
    return {name: value for name, value in model.generation_config.to_diff_dict().items() if not name.startswith("_")}


def default_length(model: Any, tokenizer: Any) -> Any:
    return model.generate(**tokenizer(NIGHT, return_tensors="pt")).shape


def new_text_only(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer([NIGHT], return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=12)
    return texts(tokenizer, output[:, inputs.input_ids.shape[1] :])


def streamed_to_a_screen(model: Any, tokenizer: Any) -> Any:
    shown: list[str] = []

    class Screen(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            shown.append(text)

    inputs = tokenizer([NIGHT], return_tensors="pt")
    output = model.generate(**inputs, streamer=Screen(tokenizer), max_new_tokens=20)
    return shown, output.tolist()


def streamed_from_a_thread(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer([NIGHT], return_tensors="pt")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=120)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, "max_new_tokens": 20})
    thread.start()
    shown = list(streamer)
    thread.join()
    return shown


def streamed_to_a_coroutine(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer([NIGHT], return_tensors="pt")

    async def read() -> list[str]:
        streamer = AsyncTextIteratorStreamer(tokenizer)
        arguments = {**inputs, "streamer": streamer, "max_new_tokens": 20}
        thread = threading.Thread(target=model.generate, kwargs=arguments)
        thread.start()
        shown = [text async for text in streamer]
        thread.join()
        return shown

    return asyncio.run(read())


def watermark(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(["This is the beginning of a long story"], return_tensors="pt")
    length = inputs["input_ids"].shape[-1]
    config = WatermarkingConfig(bias=2.5, context_width=2, seeding_scheme="selfhash")
    output = model.generate(**inputs, watermarking_config=config, do_sample=False, max_length=length + 12)
    detector: Any = WatermarkDetector(model_config=model.config, device="cpu", watermarking_config=config)
    return output.tolist(), detector(output, return_dict=True).prediction.tolist()


def static_cache(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(NIGHT, return_tensors="pt")
    arguments = {**inputs, "do_sample": False, "max_new_tokens": 20}
    return texts(tokenizer, model.generate(**arguments, cache_implementation="static"))


def no_cache(model: Any, tokenizer: Any) -> Any:
    return texts(tokenizer, model.generate(**tokenizer(NIGHT, return_tensors="pt"), use_cache=False, max_new_tokens=8))


def own_loop_over_a_cache(model: Any, tokenizer: Any) -> Any:
    cache = DynamicCache(config=model.config)
    inputs = dict(tokenizer(NIGHT, return_tensors="pt"))
    ids = inputs["input_ids"]
    for _ in range(6):
        outputs = model(**inputs, past_key_values=cache, use_cache=True)
        token = outputs.logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, token], dim=-1)
        mask = inputs["attention_mask"]
        inputs = {"input_ids": token, "attention_mask": torch.cat([mask, mask.new_ones((len(mask), 1))], dim=-1)}
    return texts(tokenizer, ids), cache.get_seq_length()


def conversation_over_a_cache(model: Any, tokenizer: Any) -> Any:
    cache = DynamicCache(config=model.config)
    text, said = "", []
    for line in ("Who is there?", "I cannot see."):
        text += line
        inputs = tokenizer(text, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=12, past_key_values=cache)
        said.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        text = tokenizer.decode(output[0], skip_special_tokens=True)
        said.append(str(cache.get_seq_length()))
    return said


def prefix_over_a_cache(model: Any, tokenizer: Any) -> Any:
    prefix = "The captain stood on the deck. "
    cache = StaticCache(config=model.config, max_cache_len=128)
    with torch.no_grad():
        cache = model(**tokenizer(prefix, return_tensors="pt"), past_key_values=cache).past_key_values
    found = []
    for line in ("He said", "The sea"):
        inputs = tokenizer(prefix + line, return_tensors="pt")
        output = model.generate(**inputs, past_key_values=copy.deepcopy(cache), max_new_tokens=12)
        found += texts(tokenizer, output)
    return found


def cache_of_an_output(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(NIGHT, return_tensors="pt")
    output = model.generate(**inputs, return_dict_in_generate=True, max_new_tokens=5)
    longer = model.generate(output.sequences, past_key_values=output.past_key_values, max_new_tokens=5)
    return output.sequences.tolist(), longer.tolist()


def assistant(model: Any, tokenizer: Any) -> Any:
    helper = AutoModelForCausalLM.from_pretrained(DRAFT_PATH, dtype=torch.float32)
    inputs = tokenizer(NIGHT, return_tensors="pt")
    return texts(tokenizer, model.generate(**inputs, assistant_model=helper, max_new_tokens=20))


def assistant_that_samples(model: Any, tokenizer: Any) -> Any:
    helper = AutoModelForCausalLM.from_pretrained(DRAFT_PATH, dtype=torch.float32)
    set_seed(42)
    inputs = tokenizer(NIGHT, return_tensors="pt")
    arguments = {"assistant_model": helper, "do_sample": True, "temperature": 0.5, "max_new_tokens": 12}
    return model.generate(**inputs, **arguments).shape[1] > inputs["input_ids"].shape[1]


def pipeline_with_an_assistant(model: Any, tokenizer: Any) -> Any:
    helper = AutoModelForCausalLM.from_pretrained(DRAFT_PATH, dtype=torch.float32)
    writer = pipeline("text-generation", model=model, tokenizer=tokenizer, assistant_model=helper)
    return writer(NIGHT, max_new_tokens=12, do_sample=False)


def chat(model: Any, tokenizer: Any) -> Any:
    messages = [{"role": "user", "content": "Who is there?"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    output = model.generate(**inputs, max_new_tokens=12)
    return tokenizer.decode(output[0][len(inputs["input_ids"][0]) :], skip_special_tokens=True)


def assistant_with_another_tokenizer(model: Any, tokenizer: Any, folder: Path) -> Any:
    from tests.actors.engine.tiny_models import make_tiny, tiny_tokenizer

    make_tiny("llama", folder)
    tiny_tokenizer(folder)
    helper, theirs = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(NIGHT, return_tensors="pt")
    arguments = {"assistant_model": helper, "tokenizer": tokenizer, "assistant_tokenizer": theirs}
    return texts(tokenizer, model.generate(**inputs, **arguments, max_new_tokens=12))


def prompt_lookup(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer("a dark night, a dark night, a dark", return_tensors="pt")
    return texts(tokenizer, model.generate(**inputs, max_new_tokens=20, prompt_lookup_num_tokens=5))


def early_exit(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(NIGHT, return_tensors="pt")
    return texts(tokenizer, model.generate(**inputs, assistant_early_exit=1, do_sample=False, max_new_tokens=12))


def guidance(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(["Today, a dragon flew over Paris, France,"], return_tensors="pt")
    found = texts(tokenizer, model.generate(inputs["input_ids"], guidance_scale=1.5, max_new_tokens=12))
    other = tokenizer(["A very happy event happened,"], return_tensors="pt")["input_ids"]
    return found + texts(
        tokenizer,
        model.generate(inputs["input_ids"], guidance_scale=0.5, negative_prompt_ids=other, max_new_tokens=12),
    )


def output_fields(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer("Hello, my dog is cute and ", return_tensors="pt")
    output = model.generate(**inputs, return_dict_in_generate=True, output_scores=True, max_new_tokens=6)
    sequences, scores = output[:2]
    return sequences.tolist(), len(scores), output.attentions is None


def transition_scores(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(["Today is"], return_tensors="pt")
    asked = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 5}
    output = model.generate(**inputs, **asked)
    scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    beams = model.generate(**inputs, **asked, num_beams=4, num_return_sequences=4)
    of_beams = model.compute_transition_scores(
        beams.sequences, beams.scores, beams.beam_indices, normalize_logits=False
    )
    return [round(value, 3) for value in [*scores[0].tolist(), *of_beams.sum(1).tolist()]]


def words_that_are_banned(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer([NIGHT], return_tensors="pt")
    plain = model.generate(**inputs, max_new_tokens=8)
    words = [[int(token)] for token in plain[0, inputs["input_ids"].shape[1] :][:3]]
    return model.generate(**inputs, max_new_tokens=8, bad_words_ids=words).tolist()


def biases(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer([NIGHT], return_tensors="pt")
    tokens = tuple(tokenizer([" sea"], add_special_tokens=False).input_ids[0])
    return model.generate(**inputs, max_new_tokens=6, num_beams=4, sequence_bias={tokens: 10.0}).tolist()


def allowed_words(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer("Alice and Bob", return_tensors="pt")
    name = tokenizer(" Bob Marley", add_special_tokens=False).input_ids
    everything = list(range(len(tokenizer)))

    def allow(batch_id: int, ids: Any) -> list[int]:
        return name if int(ids[-1]) not in name else everything

    return model.generate(**inputs, max_new_tokens=5, prefix_allowed_tokens_fn=allow).tolist()


def own_processors_and_criteria(model: Any, tokenizer: Any) -> Any:
    class AtAFullStop(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.tensor(["." in tokenizer.decode(ids[-1:]) for ids in input_ids])

    inputs = tokenizer(NIGHT, return_tensors="pt")
    processors = LogitsProcessorList([MinLengthLogitsProcessor(15, eos_token_id=model.generation_config.eos_token_id)])
    criteria = StoppingCriteriaList([MaxLengthCriteria(max_length=25), AtAFullStop()])
    arguments = {"logits_processor": processors, "stopping_criteria": criteria, "max_new_tokens": 30}
    return texts(tokenizer, model.generate(**inputs, **arguments))


def stop_strings(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer(NIGHT, return_tensors="pt")
    declared = model.generate(**inputs, max_new_tokens=40, stop_strings=["the", "."], tokenizer=tokenizer)
    criterion = StopStringCriteria(tokenizer, [","])
    built = model.generate(**inputs, max_new_tokens=40, stopping_criteria=StoppingCriteriaList([criterion]))
    return texts(tokenizer, declared), texts(tokenizer, built)


def healed_tokens(model: Any, tokenizer: Any) -> Any:
    inputs = tokenizer("It was a dark nig", return_tensors="pt")
    return model.generate(**inputs, token_healing=True, tokenizer=tokenizer, max_new_tokens=8).tolist()


def embeddings(model: Any, tokenizer: Any) -> Any:
    """The embeddings are those of a local copy: a model's modules are not where a ClusterModel is."""
    local = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32)
    inputs = tokenizer(NIGHT, return_tensors="pt")
    vectors = local.get_input_embeddings()(inputs["input_ids"]).detach()
    return model.generate(inputs_embeds=vectors, attention_mask=inputs["attention_mask"], max_new_tokens=8).tolist()


def from_nothing(model: Any, tokenizer: Any) -> Any:
    return model.generate(max_new_tokens=8).tolist(), model.generate(max_new_tokens=8, num_beams=2).tolist()


EXAMPLES = {
    function.__name__: function
    for function in (
        greedy_search, sampling, beam_search, several_beams, custom_generate_folder, custom_generate_callable,
        batch_of_two, saved_generation_config, default_generation_config, default_length, new_text_only,
        streamed_to_a_screen, streamed_from_a_thread, streamed_to_a_coroutine, watermark, static_cache, no_cache,
        own_loop_over_a_cache, conversation_over_a_cache, prefix_over_a_cache, cache_of_an_output, assistant,
        assistant_that_samples, pipeline_with_an_assistant, chat,
        assistant_with_another_tokenizer, prompt_lookup, early_exit, guidance, output_fields,
        transition_scores, words_that_are_banned, biases, allowed_words, own_processors_and_criteria, stop_strings,
        healed_tokens, embeddings, from_nothing,
    )
}  # fmt: skip
