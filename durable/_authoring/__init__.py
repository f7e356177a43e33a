"""Authoring: what people write workflows with.

`workflow` and `step` with their options and registry, and what bodies and steps call:
sleep, now, random, uuid4, metadata, logger. Knows the running body through `_replay`;
never touches the journal.
"""
