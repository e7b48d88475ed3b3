"""How long the router waits for others before it acts without them. Times in seconds."""

MAX_WAIT = 600.0  # that a request waits for a target of its model
ADOPTION_TIME = 1.0  # behind the router's start in which a request waits for the target that had it under the last one
ORPHAN_TIME = 10.0  # ... in which targets may hold requests whose clients have not come back yet
MISSING_REPORTS = 2  # reports in a row that must lack a request before it counts as lost
MISSING_BEATS = 2  # a client's signs of life in a row that must lack a request before it counts as given up
OVERLOAD_DELAY = 1.0  # after which a target whose queue was full is asked again
RESEND_INTERVAL = 0.25  # between two questions for tokens that were lost on the way
