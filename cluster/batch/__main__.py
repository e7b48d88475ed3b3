"""``python -m cluster.batch``: the same as ``slipstream batch``, for the entrypoint of a Ray job."""

import sys

from cluster.cli import main

if __name__ == "__main__":
    main(["batch", *sys.argv[1:]])
