"""Own classes: from a folder of photographs to a checkpoint that every other command takes, with their names."""
