"""Care of a journal: what is done to a file when nothing is executed from it.

Owns `durable doctor`, `verify`, `repair` and `rekey`: a file is examined, whatever state it is in
(`looking`, `verifying`, `doctor`), what can be read of a damaged one is put into another
(`salvage`, `mending`, `repairing`), and all rows of one get another seal (`rekey`).

Everything here may import from `_journal`. Nothing in the rest of `_journal` imports from here, so
that daily work neither loads nor depends on it.
"""
