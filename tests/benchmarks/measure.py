"""What suites measure with, and where their results go."""

from dataclasses import dataclass
from pathlib import Path

from cluster.bench import measure
from cluster.bench.measure import Bar, Sample, interleave, sample, timed

__all__ = ["RESULTS", "Bar", "Report", "Sample", "interleave", "sample", "timed"]

RESULTS = Path(__file__).parent / "results"


@dataclass
class Report(measure.Report):
    """One suite's outcome."""

    def write(self) -> Path:
        """Write ``results/<name>.json`` and return its path."""
        return self.save(RESULTS / f"{self.name}.json")

    def draw(self) -> Path:
        """Draw ``results/<name>.png`` unless the suite has drawn it itself, and return its path."""
        from cluster.bench.picture import draw_report

        path = RESULTS / f"{self.name}.png"
        if path.name not in self.pictures:
            draw_report(self, path)
        return path
