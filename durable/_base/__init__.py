"""Ground floor: time, durations, ids and backoff, without any I/O.

Every other room may import from here; nothing here imports anything of the
library but `durable.errors`.
"""
