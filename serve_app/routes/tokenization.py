"""Routes between text and token ids."""

import asyncio

from litestar import post

from serve_app.conversations import write_out
from serve_app.gateway import Gateway, check_ids
from serve_app.routes.generation import ERRORS
from serve_app.tokenization import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse


@post(
    "/tokenize",
    status_code=200,
    tags=["tokens"],
    summary="Ids of a text, or of a conversation as the model reads it",
    responses=ERRORS,
)
async def tokenize(data: TokenizeRequest, gateway: Gateway) -> TokenizeResponse:
    """As long as the text may be: what is too long for the model is the caller's to see."""
    gateway = gateway.of(data.model)
    card = await gateway.card()
    found = data.read()
    if isinstance(found, str):
        token_ids = await gateway.encode(found, add_special_tokens=data.add_special_tokens is not False)
    else:
        text = await write_out(gateway, found)
        token_ids = await gateway.encode(text, add_special_tokens=found.add_special_tokens)
    return TokenizeResponse(
        count=len(token_ids),
        max_model_len=card.max_model_len,
        tokens=token_ids,
        token_strs=[gateway.tokenizer.spelling(token_id) for token_id in token_ids] if data.return_token_strs else None,
    )


@post("/detokenize", status_code=200, tags=["tokens"], summary="Text of some ids", responses=ERRORS)
async def detokenize(data: DetokenizeRequest, gateway: Gateway) -> DetokenizeResponse:
    """Special tokens show."""
    gateway = gateway.of(data.model)
    card = await gateway.card()
    check_ids(data.tokens, card, "tokens")
    decode = gateway.tokenizer.decode
    return DetokenizeResponse(prompt=await asyncio.to_thread(decode, data.tokens, skip_special_tokens=False))
