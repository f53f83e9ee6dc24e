"""The ports of the house: what a broker, a results store, an application and an executor must offer.

``broker`` and ``results`` are blocking protocols that are called from threads of their own (one caller per thread and
connection); ``application`` is what a worker runs; ``executor`` is where it runs; ``processes`` starts a node's children.
Implementations live in the rooms of the same names and do not know each other; whoever starts a worker puts them together.
"""
