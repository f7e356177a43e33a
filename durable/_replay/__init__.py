"""Replay: a workflow body driven over its history, without any I/O.

Holds the event vocabulary, the deterministic event loop that a body runs on, and the
`Body` that applies events one at a time and collects the commands that the code issues.
Nothing here reads a clock, draws a random number or touches a file.
"""
