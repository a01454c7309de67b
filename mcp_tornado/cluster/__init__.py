"""The processes that share a store: which of them are alive, and the messages that they send to each other."""
