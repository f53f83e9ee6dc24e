"""Tests. A package, so that modules of the same name may live in several rooms and share helpers."""
