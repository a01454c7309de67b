"""What a client reads: the names, frames and readers of a session's streams, and what ends a stream."""
