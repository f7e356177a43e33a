"""The journal: one SQLite file that holds every run and its history.

Owns all SQL and all files beside the journal. It knows nothing about user
coroutines: the engine hands it rows (`records`) and gets them back. Start reading
at `journal.py` (the facade), then `writer.py` (group commit) and `reader.py`. What is
done to a file that nobody works with, as `durable doctor` does, lies in `care`.
"""
