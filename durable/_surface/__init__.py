"""Surface: what programs and people hold in their hands.

`Runtime`, `start`, `Run`, the synchronous facade, the command line. It prepares and
explains; every decision about runs is made by the engine below.
"""
