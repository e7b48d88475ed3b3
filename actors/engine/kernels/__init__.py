"""Code that runs on a GPU."""
