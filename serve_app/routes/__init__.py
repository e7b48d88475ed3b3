"""Handlers of the HTTP routes, one file for each group of them."""
