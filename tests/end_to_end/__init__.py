"""Whole systems: a real worker, a real broker, and somebody who looks on from outside."""
