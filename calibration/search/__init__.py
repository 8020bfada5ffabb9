"""What is chosen: ranges by the damage they cause, and which layers keep a higher precision."""
