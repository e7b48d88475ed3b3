"""The part of the matrix that fits a test run: every model in fp32, one of each kind quantized and sharded."""

import pytest

from tests.conformance.generate_matrix import CELLS, LAYOUTS, MODELS, TABLE, both, differences

THOROUGH = ("llama", "t5")
GROUPS = [(model, layout) for model in MODELS for layout in LAYOUTS if layout == "fp32" or model in THOROUGH]


@pytest.mark.parametrize(("model", "layout"), GROUPS)
def test_results_are_those_of_transformers(model: str, layout: str) -> None:
    cells = [cell for cell in CELLS if (cell.model, cell.layout) == (model, layout) and not cell.refusal()]
    assert len(cells) > 10
    with both(model, layout) as (reference, cluster):
        faults = {(cell.mode, cell.rows): differences(cell, reference, cluster) for cell in cells}
    assert {cell: fault for cell, fault in faults.items() if fault} == {}


def test_the_table_shows_every_model_and_layout() -> None:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = {tuple(part.strip() for part in line.split("|")[1:3]) for line in lines if line.count("|") > 3}
    assert {(model, layout) for model in MODELS for layout in LAYOUTS} <= rows
