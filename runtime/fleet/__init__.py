"""Bulk work on many machines with Ray: the command's side of it imports Ray only when --ray asks for it."""
