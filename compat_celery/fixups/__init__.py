"""What fits an app to other frameworks."""
