"""Monitoring agents beside our worker and publisher."""
