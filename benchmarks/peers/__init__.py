"""Programs of peers that must lie in modules of their own; see `benchmarks/workloads/peer_*`.

Nothing here is imported but by the peer that needs it, in its own process.
"""
