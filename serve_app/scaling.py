"""How many replicas a pool should have: its sequences over what one replica carries comfortably."""

import math
from typing import Any

LOAD = "num_requests"


def scale_by_load(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy (an ``AutoscalingContext`` in, replicas and state out)."""
    loads = context.aggregated_metrics.get(LOAD, {})
    wanted = math.ceil(sum(loads.values()) / context.config.target_ongoing_requests)
    low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return min(max(wanted, low), high), {}
