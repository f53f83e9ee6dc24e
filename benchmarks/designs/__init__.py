"""One job in three designs: batches of rows through an API, results stored, failures kept. Run by pipelines_vs_celery."""
