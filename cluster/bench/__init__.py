"""Measuring: how contenders take turns, what speculation brings and should bring, and servers under load."""
