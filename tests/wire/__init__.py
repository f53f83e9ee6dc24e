"""The wire contract on real input: genuine Celery 5.7 and ours talk to each other over a private Redis."""
