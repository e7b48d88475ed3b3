"""One model on its devices: loading, KV cache, scheduler, sampler.

The only package that imports torch and transformers for compute. It knows nothing of Ray, HTTP or clients. This module
stays free of torch, so that configuration and parameter types can be imported anywhere in milliseconds.
"""
