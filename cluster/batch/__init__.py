"""Batch jobs: a file of requests in OpenAI's batch format, run on the cluster, and a file of results.

A job that dies anywhere goes on where it was when the same command is given again: the file of results is its journal
(:mod:`cluster.batch.ledger`), and each request's seed comes from its ``custom_id``, so that its text does not depend on
how often, when or beside what it was run.
"""
