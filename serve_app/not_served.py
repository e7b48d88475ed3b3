"""What ``generate`` takes and HTTP does not, each with its reason."""

_OPERATORS = "how the server computes is its operator's to decide"
_REMOVED = "transformers itself has it no longer, and code from the hub is never run here"
_CODE = "code is never taken from a request"
_ENCODED = "send ids or text"

NOT_SERVED: dict[str, str] = {
    "compile_config": _OPERATORS,
    "disable_compile": _OPERATORS,
    "continuous_batching_config": _OPERATORS,
    "max_cache_len": _OPERATORS,
    "cache_config": _OPERATORS,
    "is_assistant": "it says of a draft that it is one, and here the cluster has the drafts",
    "assistant_ensemble_weight": "it makes assistance lossy, and here drafts never show in the text",
    "speculation_type": "here the cluster has the drafts",
    "low_memory": _REMOVED,
    "penalty_alpha": _REMOVED,
    "dola_layers": _REMOVED,
    "diversity_penalty": _REMOVED,
    "num_beam_groups": _REMOVED,
    "force_words_ids": _REMOVED,
    "constraints": _REMOVED,
    "custom_generate": _CODE,
    "prefix_allowed_tokens_fn": _CODE,
    "logits_processor": f"{_CODE}; name what the operator has registered in logits_processors",
    "streamer": "use stream",
    "generation_config": "its fields stand beside the prompt",
    "synced_gpus": "no ranks run in step here",
    "inputs": "send prompt or input_ids",
    "inputs_embeds": _ENCODED,
    "past_key_values": _ENCODED,
    "attention_mask": "prompts come without padding, so there is nothing to mask",
    "negative_prompt_attention_mask": "prompts come without padding, so there is nothing to mask",
    "trust_remote_code": "code from the hub is never run here",
}
