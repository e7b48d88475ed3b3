"""Rows of speed on one GPU against its own bandwidth, transformers and plain decoding; ``python -m`` runs them."""
