"""Who does the work: the router, target and draft actors, the messages between them, and their loops.

Nothing here knows HTTP. Ray appears only in the modules that start or wrap actors; the loops and the router's
decisions are plain objects behind the :class:`actors.link.Link` protocol.
"""
