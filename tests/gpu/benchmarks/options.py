"""What a run of the rows is asked for."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.random_models import SHAPES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
DRAFT_LAYERS = {"tiny": 1, "1B": 1, "8B": 2, "70B": 4}
DRAFT_LENGTHS = {"tiny": 3, "1B": 5, "8B": 5, "70B": 6}


@dataclass(frozen=True)
class Options:
    """The options of ``python -m tests.gpu.benchmarks``.

    Attributes:
        rows: numbers of the rows that run.
        shape: of the main model; ``tiny`` is a rehearsal on a CPU.
        device: where models are.
        with_70b: run the rows that have a 70B part on it too.
        repeats: runs of each contender that count.
        num_new_tokens: of one run.
        num_streams: of the row of many streams.
        acceptance: that the draft's is brought to.
        deadline: seconds after which no further row begins; 0 for none.
        out: folder of the results.
    """

    rows: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    shape: str = "8B"
    device: str = "cuda"
    with_70b: bool = False
    repeats: int = 3
    num_new_tokens: int = 96
    num_streams: int = 32
    acceptance: float = 0.8
    deadline: float = 0.0
    out: Path = RESULTS

    @property
    def is_rehearsal(self) -> bool:
        """Whether figures mean nothing."""
        return self.shape == "tiny"

    @property
    def small_shape(self) -> str:
        """Of the draft whose burst is measured."""
        return "tiny" if self.is_rehearsal else "1B"

    @property
    def num_steps(self) -> int:
        """Steps of each kind that are timed one by one."""
        return 4 if self.is_rehearsal else 24

    @property
    def num_batch_tokens(self) -> int:
        """New tokens of each of many streams."""
        return 8 if self.is_rehearsal else 128


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.benchmarks", description=__doc__)
    parser.add_argument("--rows", type=_numbers, default=default.rows, metavar="N,N,...", help="default: all")
    parser.add_argument("--shape", choices=SHAPES, default=default.shape, help="of the main model")
    parser.add_argument("--device", default=default.device)
    parser.add_argument("--with-70b", action="store_true", help="rows 3 and 4 on 70B too")
    parser.add_argument("--repeats", type=int, default=default.repeats)
    parser.add_argument("--num-new-tokens", type=int, default=default.num_new_tokens)
    parser.add_argument("--num-streams", type=int, default=default.num_streams, help="of row 5")
    parser.add_argument("--acceptance", type=float, default=default.acceptance)
    parser.add_argument("--deadline", type=float, default=0.0, metavar="SECONDS", help="begin no row after it")
    parser.add_argument("--out", type=Path, default=default.out, help="folder of the results")
    return Options(**vars(parser.parse_args(arguments)))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
