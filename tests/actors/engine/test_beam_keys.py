"""The keys of a search's beams, joined: each block once, each beam with its own past and window."""

import random

import pytest
import torch
import torch.nn.functional as F

from actors.engine.attention import AttentionCall, AttentionSpan, PagedAttention
from actors.engine.beam_keys import beam_keys
from actors.engine.blocks import BlockTable
from actors.engine.kv_cache import KVCache, LayerSpec

SIZE = 4


def runs(blocks: list[int]) -> tuple[tuple[int, int], ...]:
    table = BlockTable()
    for block in blocks:
        table.append(block)
    return tuple((first, count) for first, count in table.runs)


def test_shared_blocks_are_read_once() -> None:
    keys = beam_keys([runs([4, 5, 9]), runs([4, 5, 7])], num_tokens=10, block_size=SIZE)
    assert keys.runs == ((16, 8), (36, 2), (28, 2))
    assert keys.positions.tolist() == [*range(8), 8, 9, 8, 9]
    assert keys.visible.tolist() == [[True] * 10 + [False] * 2, [True] * 8 + [False] * 2 + [True] * 2]


def test_neighbours_form_one_run_only_where_they_are_full() -> None:
    assert beam_keys([runs([0, 2]), runs([0, 1])], num_tokens=6, block_size=SIZE).runs == ((0, 4), (8, 2), (4, 2))
    assert beam_keys([runs([0, 1]), runs([0, 2])], num_tokens=8, block_size=SIZE).runs == ((0, 12),)
    assert beam_keys([runs([0, 1]), runs([0, 2])], num_tokens=6, block_size=SIZE).runs == ((0, 6), (8, 2))


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 1, 5, 9, 100])
@pytest.mark.parametrize("num_tokens", [1, 4, 11, 17])
def test_attending_together_is_attending_apart(num_tokens: int, window: int | None, softcap: float | None) -> None:
    source = random.Random(num_tokens)
    torch.manual_seed(num_tokens)
    cache = KVCache({0: LayerSpec(2, 8, 8, torch.float32, torch.device("cpu"))}, num_blocks=40, block_size=SIZE)
    cache.write(0, torch.arange(160), torch.randn(160, 2, 8), torch.randn(160, 2, 8))
    depth = -(-num_tokens // SIZE)
    free = source.sample(range(40), 40)
    tables = [[free.pop() for _ in range(depth)] for _ in range(3)]
    for at in range(1, depth):
        tables[1][:at] = tables[0][:at] if source.random() < 0.7 else tables[1][:at]
    tables.append([*tables[0][:-1], free.pop()])
    keys = beam_keys([runs(table) for table in tables], num_tokens, SIZE)
    call = AttentionCall(
        0, torch.randn(4, 4, 8), torch.randn(2, 4, 8), torch.randn(2, 4, 8), 0.3, window, softcap, True, {}
    )
    slots = torch.tensor([table[-1] * SIZE + (num_tokens - 1) % SIZE for table in tables])
    span = AttentionSpan(0, 4, num_tokens, keys.runs, keys)
    together = PagedAttention(cache, {torch.device("cpu"): slots}, [span]).attend(call)
    for beam, table in enumerate(tables):
        held = torch.tensor([block * SIZE + i for block in table for i in range(SIZE)])[:num_tokens]
        if window is not None:
            held = held[-window:]
        past, values = (
            part[held].transpose(0, 1).repeat_interleave(2, dim=0) for part in (cache._keys[0], cache._values[0])
        )
        scores = call.query[:, beam : beam + 1] @ past.transpose(1, 2) * 0.3
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        assert torch.allclose(together[beam], (F.softmax(scores, -1) @ values)[:, 0], atol=1e-5)


def test_blocks_are_copied_in_every_layer() -> None:
    layers = {n: LayerSpec(1, 2, 3, torch.float32, torch.device("cpu")) for n in (0, 3)}
    cache = KVCache(layers, num_blocks=6, block_size=SIZE)
    for layer in layers:
        cache.write(layer, torch.arange(24), torch.randn(24, 1, 2), torch.randn(24, 1, 3))
    before = {layer: [part.clone() for part in cache.read(layer, ((0, 24),), 0)] for layer in layers}
    cache.copy([(1, 4), (1, 2), (5, 0)])
    for layer in layers:
        for part, old in zip(cache.read(layer, ((0, 24),), 0), before[layer], strict=True):
            assert part[:, :, 16:20].equal(old[:, :, 4:8])
            assert part[:, :, 8:12].equal(old[:, :, 4:8])
            assert part[:, :, 0:4].equal(old[:, :, 20:24])
            assert part[:, :, 12:16].equal(old[:, :, 12:16])
