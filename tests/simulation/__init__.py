"""Nodes under virtual time: the worker's own parts, driven step by step through seeded stories of crashes, stops and outages."""
