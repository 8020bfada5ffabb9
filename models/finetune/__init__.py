"""Own classes: from a folder of images to a checkpoint that every other command takes, with their names."""
