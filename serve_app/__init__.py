"""The front door: HTTP over Ray Serve. The only package that imports ``ray.serve`` and the web framework."""
