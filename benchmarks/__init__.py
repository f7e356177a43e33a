"""How fast `durable` is, as ratios to what this machine can do at all.

Run it with ``python -m benchmarks``; see README.md in this folder. The parts:
`workloads/` holds one file per workload, `floors` what the machine does without
us, `worker` runs one of either in a fresh process, `runner` interleaves them,
`outcome` turns samples into ratios and `table` prints. Nothing here is imported
by the library, and nothing here asserts a time: tests count, benchmarks time.
"""
