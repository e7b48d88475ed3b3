"""An asynchronous client of a Slipstream server with the arguments of ``generate``; needs neither torch nor Ray.

>>> async with Client("http://127.0.0.1:8000") as client:
...     found = await client.generate("It was a dark night", max_new_tokens=64, num_beams=4, output_scores=True)
...     async for piece in client.stream("It was a dark night", max_new_tokens=64, seed=7):
...         print(piece.text, end="")

For chats, completions and what else OpenAI's API has, use OpenAI's client.
"""

from cluster.client.client import Client
from cluster.client.results import Generated, Piece

__all__ = ["Client", "Generated", "Piece"]
