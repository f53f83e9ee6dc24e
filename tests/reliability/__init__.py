"""The pains of today's systems, one test each, with the figures that ours must show."""
