"""What came of it: judged, timed and shown."""
