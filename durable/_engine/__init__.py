"""Engine: decides when runs are activated, makes attempts of steps, recovers.

Every room here works by the same rule: decide, commit, act. Effects (attempts, timers,
answers to callers) happen only after the journal has reported the write as durable.
"""
