"""Declared calls as the door runs them: their tokens as they come, their outputs fetched whole."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from actors.engine.declared_call import DeclaredCall
from actors.native_job import Tokens
from cluster.generation_client import ModelClient
from serve_app.choices import closing_generator

Fields = dict[str, Any]
"""The fields of an output by name: arrays, and tuples that nest them."""


async def run_declared(client: ModelClient, model: str, call: DeclaredCall) -> AsyncGenerator[Tokens | Fields, None]:
    """Run a call; the last item is its output. Raises SlipstreamError."""
    async with aclosing(closing_generator(client.run_native(call, model))) as items:
        async for item in items:
            if isinstance(item, Tokens):
                yield item
                continue
            fields = dict(item.output.small)
            for name in item.output.large:
                fields[name] = await asyncio.to_thread(item.fetch, name)
            yield fields
