"""The counter-based noise: right generator, right distribution, a function of (seed, position, token) alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actors.engine.noise import gumbel_noise, gumbel_noise_at, philox4x32
from tests.actors.engine.sampling_helpers import chi_square_p

WORD = 2**32
UINT32 = st.integers(0, WORD - 1)


def reference_philox(counter: list[int], key: list[int]) -> list[int]:
    """The published algorithm in plain integers."""
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [(b // WORD) ^ counter[1] ^ key[0], b % WORD, (a // WORD) ^ counter[3] ^ key[1], a % WORD]
        key = [(key[0] + 0x9E3779B9) % WORD, (key[1] + 0xBB67AE85) % WORD]
    return counter


def philox(counter: list[int], key: list[int]) -> list[int]:
    words = [torch.tensor([word]) for word in counter]
    keys = [torch.tensor([word]) for word in key]
    return [int(word) for word in philox4x32((words[0], words[1], words[2], words[3]), (keys[0], keys[1]))]


def noise(seeds: list[int], positions: list[int], vocab_size: int) -> Tensor:
    return gumbel_noise(torch.tensor(seeds), torch.tensor(positions), vocab_size)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([WORD - 1] * 4, [WORD - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers_of_random123(counter: list[int], key: list[int], words: list[int]) -> None:
    assert philox(counter, key) == words


@settings(deadline=None, max_examples=60)
@given(st.lists(UINT32, min_size=4, max_size=4), st.lists(UINT32, min_size=2, max_size=2))
def test_philox_against_plain_integers(counter: list[int], key: list[int]) -> None:
    assert philox(counter, key) == reference_philox(counter, key)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 200))
def test_noise_comes_from_the_documented_counter(seed: int, position: int, token: int) -> None:
    counter = [token // 4, 0, position % WORD, position // WORD]
    word = reference_philox(counter, [seed % WORD, seed // WORD])[token % 4]
    expected = -math.log(-math.log1p(-(word + 0.5) / WORD))
    assert float(noise([seed], [position], 201)[0, token]) == pytest.approx(expected, abs=0.01)


def test_large_values_are_exact() -> None:
    """The upper tail decides who wins, so it must not be rounded to the steps of a 24-bit uniform."""
    values = noise(list(range(64)), [0] * 64, 4096)
    tail = values[values > 10]
    assert len(tail) > 5
    words = torch.round(-torch.expm1(-torch.exp(-tail.double())) * WORD - 0.5)
    again = -torch.log(-torch.log1p(-(words + 0.5) / WORD))
    assert torch.allclose(tail.double(), again, atol=1e-5)
    assert values.isfinite().all()
    assert -2.85 < float(values.min()) < -2.3  # about 1 in 20,000 lies below -2.3


def test_chosen_tokens_have_the_noise_of_the_whole_row() -> None:
    seeds, positions = [3, 2**62 + 5, 0], [0, 77, 2**33]
    rows = noise(seeds, positions, 1003)
    row_ids, tokens = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1002, 513, 7, 8, 7])
    chosen = gumbel_noise_at(torch.tensor(seeds)[row_ids], torch.tensor(positions)[row_ids], tokens)
    assert torch.equal(chosen, rows[row_ids, tokens])


def test_noise_depends_on_no_other_row_and_not_on_the_vocabulary() -> None:
    seeds, positions = list(range(40)), [i * i for i in range(40)]
    together = noise(seeds, positions, 5003)
    alone = torch.cat([noise([seed], [position], 5003) for seed, position in zip(seeds, positions, strict=True)])
    assert torch.equal(together, alone)
    assert torch.equal(together[:, :1001], noise(seeds, positions, 1001))


def test_vocabularies_beyond_one_chunk() -> None:
    row = noise([11], [4], 150_001)
    tokens = torch.tensor([0, 131_071, 131_072, 131_073, 150_000])
    assert torch.equal(row[0, tokens], gumbel_noise_at(torch.full((5,), 11), torch.full((5,), 4), tokens))


def test_noise_is_gumbel_distributed() -> None:
    values = noise(list(range(100, 140)), list(range(40)), 10_000).double().flatten()
    uniform = torch.exp(-torch.exp(-values))
    counts = torch.histc(uniform, bins=200, min=0.0, max=1.0)
    assert chi_square_p(counts, torch.full((200,), 1 / 200)) > 0.01
    assert float(values.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(values.var()) == pytest.approx(math.pi**2 / 6, abs=0.02)


@pytest.mark.parametrize(
    ("other_seed", "other_position"), [(1, 500), (0, 501), (2**32, 500), (0, 500 + 2**32), (500, 0)]
)
def test_seeds_and_positions_are_independent(other_seed: int, other_position: int) -> None:
    rows = noise([0, other_seed], [500, other_position], 40_000)
    correlation = float(torch.corrcoef(rows)[0, 1])
    assert abs(correlation) < 4 / math.sqrt(40_000)


def test_neighbouring_tokens_are_independent() -> None:
    row = noise([5], [9], 40_004)[0]
    for distance in (1, 2, 3, 4):
        pair = torch.stack([row[:-distance], row[distance:]])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / math.sqrt(40_000)
