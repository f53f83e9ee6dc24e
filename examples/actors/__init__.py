"""Three actors as people write them: a worker of one's own, a device gateway that degrades, a sign-up driven by events.

``python -m examples.actors.render_worker`` and so on; each ends by itself after a few seconds. The how-to pages explain them.
"""
