"""Grammars on CUDA: the same masks as on the host. Run by ``make gpu``."""

import pytest
import torch

from actors.engine.grammar_mask import mask_scores
from tests.actors.engine.test_grammar_mask import begun
from tests.actors.engine.tiny_models import VOCAB_SIZE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")


@pytest.mark.parametrize("num_rows", [1, 3])
def test_masks_on_cuda_are_those_on_cpu(num_rows: int) -> None:
    scores = torch.randn(3, VOCAB_SIZE)
    on_gpu = scores.to("cuda")
    for target in (scores, on_gpu):
        assert mask_scores(target, {row: (begun("[a-f]x"), [9], 1) for row in range(num_rows)}) == {}
    assert torch.equal(on_gpu.cpu(), scores)
