"""What a client reads: the names, frames and readers of a session's streams, and how a stream ends.

All modules of this package keep these rules:

- The event log in the store is authoritative. A wake-up only says that the log may have changed, and it can be lost. A
  reader reads the log after every wait.
- A silent call sends no message before its answer and ends within `events.stream_after_seconds`. Its answer is JSON,
  and it writes nothing to the event log.
- No operation makes an ended session live again: an append to a session that has ended raises `SessionGone`.
- Only the session manager tells a client that its session has expired. An empty log does not show that.
- The name of a call's stream contains the name of the process that runs the call. Only that process writes the stream;
  if it has died, another process ends the stream. The names of the other streams contain no process: all processes
  write the standalone stream, and an `ids-` stream holds the request ids that are too long for the name of a stream.
"""
