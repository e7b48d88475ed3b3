import pytest
import torch

from tests.actors.engine.loading_harness import Make
from tests.actors.engine.tiny_models import make_tiny

# Tiny models have nothing to share out: a second thread costs more than it brings, and much more on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> str:
        path = root / name.replace(":", "-")
        if not path.is_dir():
            make_tiny(name.split(":")[0], path)
        return str(path)

    return folder
