"""What a client reads: the names, frames and readers of a session's streams, and how a stream ends.

All modules of this package keep these rules:

- The event log in the store is the truth; a wake-up is a hint. A reader reads the log after every wait.
- A silent call writes nothing: without a message before its answer, the answer is JSON and the log has no trace of it.
- Nothing resurrects a session: an append to a session that has ended raises `SessionGone`.
- Only the session manager decides whether a session has expired; an empty log says nothing about that.
- The name of a stream names the process that writes it. Only the standalone stream is written by all processes.
"""
