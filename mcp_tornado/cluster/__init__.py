"""The processes that share a store: which of them live, and the messages that they send each other."""
