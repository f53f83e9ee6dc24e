"""Jumpstarter: workers that are actors modelled by hierarchical state machines."""

__version__ = "0.1.0"
